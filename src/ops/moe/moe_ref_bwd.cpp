// Gradients of routing and combining: the definition, plain loops in double.
#include <cmath>
#include <limits>
#include <vector>

#include "ops/moe/moe_bwd.h"

namespace linnet::ops {
namespace {

using Row = std::vector<double>;

// score(logits), and its complement 1 - score where score is the sigmoid.
struct Scores {
  Row value, complement;
};

Scores scores_of(const RouterBwdArgs& a, int64_t n) {
  const float* logits = a.logits.row<float>(n);
  const size_t E = static_cast<size_t>(a.logits[1]);
  Scores s{Row(E), Row(E)};
  double max = -std::numeric_limits<double>::infinity(), sum = 0;
  for (size_t e = 0; e < E; ++e) max = std::max<double>(max, logits[e]);
  for (size_t e = 0; e < E; ++e) {
    const double x = logits[e];
    s.value[e] = a.score == RouterScore::sigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x - max);
    s.complement[e] = 1 / (1 + std::exp(x));
    sum += s.value[e];
  }
  if (a.score == RouterScore::softmax)
    for (double& value : s.value) value /= sum;
  return s;
}

// ds of the chosen experts, from dw:  w_i = scaling c_i / S,  S = sum_j c_j + 1e-20,  c = s or s + bias. With ds_i = sum_j dw_j
// dw_j/dc_i:  ds_i = scaling dw_i / S - sum_j dw_j scaling c_j / S^2 = (scaling dw_i - sum_j dw_j w_j) / S.
Row chosen_gradients(const RouterBwdArgs& a, int64_t n, const Row& score) {
  const size_t K = static_cast<size_t>(a.experts[1]);
  const float* dweights = a.dweights.row<float>(n);
  Row ds(K);
  double sum = 1e-20, product = 0;
  for (size_t k = 0; k < K; ++k) {
    const size_t e = static_cast<size_t>(a.experts.row<int32_t>(n)[k]);
    const double c = score[e] + (a.biased_weights && a.bias ? a.bias.as<float>()[e] : 0);
    sum += c, product += dweights[k] * c;
  }
  for (size_t k = 0; k < K; ++k)
    ds[k] = a.renormalize ? a.scaling * (dweights[k] - product / sum) / sum : double{a.scaling} * dweights[k];
  return ds;
}

}  // namespace

// sigmoid' = s (1 - s);  softmax: dp_i/dlogit_e = p_i ([i == e] - p_e), so dlogit_e = p_e (ds_e - sum_i ds_i p_i).
void router_ref_bwd(const RouterBwdArgs& a) {
  const size_t E = static_cast<size_t>(a.logits[1]), K = static_cast<size_t>(a.experts[1]);
  for (int64_t n = 0; n < a.logits[0]; ++n) {
    const Scores s = scores_of(a, n);
    const Row chosen = chosen_gradients(a, n, s.value);
    Row ds(E), dlogits(E);
    double product = 0;
    for (size_t k = 0; k < K; ++k) {
      const size_t e = static_cast<size_t>(a.experts.row<int32_t>(n)[k]);
      ds[e] = chosen[k], product += chosen[k] * s.value[e];
      if (a.score == RouterScore::sigmoid) dlogits[e] = chosen[k] * s.value[e] * s.complement[e];
    }
    if (a.score == RouterScore::softmax)
      for (size_t e = 0; e < E; ++e) dlogits[e] = s.value[e] * (ds[e] - product);
    for (size_t e = 0; e < E; ++e) a.dlogits.row<float>(n)[e] = static_cast<float>(dlogits[e]);
  }
}

void combine_ref_bwd(const CombineBwdArgs& a) {
  const int64_t C = a.x[1], K = a.position[1];
  for (int64_t n = 0; n < a.dy[0]; ++n)
    for (int64_t k = 0; k < K; ++k) {
      const int64_t at = a.position.row<int32_t>(n)[k];
      const float *x = a.x.row<float>(at), *dy = a.dy.row<float>(n);
      const double weight = a.weights.row<float>(n)[k];
      double product = 0;
      for (int64_t c = 0; c < C; ++c) {
        product += static_cast<double>(dy[c]) * x[c];
        a.dx.row<float>(at)[c] = static_cast<float>(weight * dy[c]);
      }
      a.dweights.row<float>(n)[k] = static_cast<float>(product);
    }
}

}  // namespace linnet::ops
