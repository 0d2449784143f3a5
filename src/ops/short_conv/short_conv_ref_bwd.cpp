// Gradient of the short causal convolution: the definition, plain loops in double.
//
// x_u enters a_t with tap j when t - (W - 1) + j == u, so  dx_u = sum_j weight[j] da_{u + W - 1 - j}, over tokens of the sequence.
#include <cmath>
#include <vector>

#include "ops/short_conv/short_conv_bwd.h"

namespace linnet::ops {
namespace {

// Channel c of one sequence's inputs: W - 1 of before the call, then the call's.
std::vector<double> inputs_of(const ShortConvBwdArgs& a, int64_t b, int64_t c) {
  const int64_t C = a.x[1], W = a.weight[1];
  const float* state = a.state ? a.state[b] : nullptr;
  std::vector<double> input;
  for (int64_t i = 0; i < W - 1; ++i) input.push_back(state ? state[i * C + c] : 0);
  for (int64_t t = a.seq_start.as<int32_t>()[b]; t < a.seq_start.as<int32_t>()[b + 1]; ++t)
    input.push_back(a.x.row<float>(t)[c]);
  return input;
}

void channel_bwd(const ShortConvBwdArgs& a, int64_t b, int64_t c, std::vector<double>& dweight) {
  const size_t W = static_cast<size_t>(a.weight[1]);
  const int64_t begin = a.seq_start.as<int32_t>()[b];
  const float* weight = a.weight.row<float>(c);
  const std::vector<double> input = inputs_of(a, b, c);
  const size_t T = input.size() - (W - 1);
  std::vector<double> dx(T);
  for (size_t t = 0; t < T; ++t) {
    double sum = 0;
    for (size_t j = 0; j < W; ++j) sum += weight[j] * input[t + j];
    const double s = 1 / (1 + std::exp(-sum)), slope = a.silu ? s * (1 + sum * (1 - s)) : 1;
    const double da = slope * a.dy.row<float>(begin + static_cast<int64_t>(t))[c];
    for (size_t j = 0; j < W; ++j) {
      dweight[static_cast<size_t>(c) * W + j] += da * input[t + j];
      if (t + j >= W - 1) dx[t + j - (W - 1)] += da * weight[j];
    }
  }
  for (size_t t = 0; t < T; ++t) a.dx.row<float>(begin + static_cast<int64_t>(t))[c] = static_cast<float>(dx[t]);
}

}  // namespace

void short_conv_ref_bwd(const ShortConvBwdArgs& a) {
  const int64_t C = a.x[1], W = a.weight[1];
  std::vector<double> dweight(static_cast<size_t>(C * W));
  for (int64_t b = 0; b + 1 < a.seq_start[0]; ++b)
    for (int64_t c = 0; c < C; ++c) channel_bwd(a, b, c, dweight);
  for (int64_t c = 0; c < C; ++c)
    for (int64_t j = 0; j < W; ++j) {
      float& out = a.dweight.row<float>(c)[j];
      out = static_cast<float>(out + dweight[static_cast<size_t>(c * W + j)]);
    }
}

}  // namespace linnet::ops
