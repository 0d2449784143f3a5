// Definition of the head with cross-entropy: plain loops in double, one token's logits at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/cross_entropy/cross_entropy.h"

namespace linnet::ops {
namespace {

double value(const ConstTensor& t, int64_t row, int64_t column) {
  switch (t.dtype) {
    case DType::bf16: return to_f32(t.row<bf16>(row)[column]);
    case DType::f16: return to_f32(t.row<f16>(row)[column]);
    default: return t.row<float>(row)[column];
  }
}

}  // namespace

// d lse / d logit[v] = softmax[v], so d(nll + z lse^2) / d logit[v] = (1 + 2 z lse) softmax[v] - [v == target].
void cross_entropy_ref(const CrossEntropyArgs& a) {
  const int64_t N = a.hidden[0], C = a.hidden[1], V = a.w[0];
  std::vector<double> logits(static_cast<size_t>(V)), dw(a.dhidden ? static_cast<size_t>(V * C) : 0);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t v = 0; v < V; ++v) {
      double& logit = logits[static_cast<size_t>(v)] = 0;
      for (int64_t c = 0; c < C; ++c) logit += value(a.w, v, c) * value(a.hidden, n, c);
    }
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (double logit : logits) sum += std::exp(logit - largest);
    const double lse = largest + std::log(sum);
    const int32_t target = a.target.as<int32_t>()[n];
    a.nll.as<float>()[n] = target < 0 ? 0 : static_cast<float>(lse - logits[static_cast<size_t>(target)]);
    if (a.lse) a.lse.as<float>()[n] = static_cast<float>(lse);
    if (!a.dhidden) continue;

    const double weight = target < 0 ? 0 : a.weight ? a.weight.as<float>()[n] : 1;
    std::vector<double> dhidden(static_cast<size_t>(C));
    for (int64_t v = 0; v < V; ++v) {
      const double softmax = std::exp(logits[static_cast<size_t>(v)] - lse);
      const double dlogit = weight * a.scale * ((1 + 2 * double{a.z_loss} * lse) * softmax - (v == target));
      for (int64_t c = 0; c < C; ++c) {
        dhidden[static_cast<size_t>(c)] += dlogit * value(a.w, v, c);
        dw[static_cast<size_t>(v * C + c)] += dlogit * value(a.hidden, n, c);
      }
    }
    for (int64_t c = 0; c < C; ++c) a.dhidden.row<float>(n)[c] = static_cast<float>(dhidden[static_cast<size_t>(c)]);
  }
  for (size_t i = 0; i < dw.size(); ++i) a.dw.as<float>()[i] = static_cast<float>(a.dw.as<float>()[i] + dw[i]);
}

}  // namespace linnet::ops
