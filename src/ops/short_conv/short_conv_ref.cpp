// Short causal convolution: the definition, plain loops in double.
#include <cmath>
#include <vector>

#include "ops/short_conv/short_conv.h"

namespace linnet::ops {

void short_conv_ref(const ShortConvArgs& a) {
  const int64_t C = a.x[1], W = a.weight[1];
  for (int64_t b = 0; b + 1 < a.seq_start[0]; ++b) {
    const int64_t begin = a.seq_start.as<int32_t>()[b], end = a.seq_start.as<int32_t>()[b + 1];
    if (begin == end) continue;
    for (int64_t c = 0; c < C; ++c) {
      std::vector<float> input;  // W - 1 inputs of before, then this call's
      for (int64_t i = 0; i < W - 1; ++i) input.push_back(a.state[b][i * C + c]);
      for (int64_t t = begin; t < end; ++t) input.push_back(a.x.row<float>(t)[c]);
      for (int64_t t = begin; t < end; ++t) {
        double sum = 0;
        for (int64_t j = 0; j < W; ++j)
          sum += static_cast<double>(a.weight.row<float>(c)[j]) * input[static_cast<size_t>(t - begin + j)];
        a.y.row<float>(t)[c] = static_cast<float>(a.silu ? sum / (1 + std::exp(-sum)) : sum);
      }
      for (int64_t i = 0; i < W - 1; ++i) a.state[b][i * C + c] = input[static_cast<size_t>(end - begin + i)];
    }
  }
}

}  // namespace linnet::ops
