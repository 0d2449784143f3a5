// Mixture-of-experts routing with Highway vectors for the scores and the weighted sum; the choice itself is scalar.
#include <algorithm>
#include <limits>

#include "ops/moe/moe.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/moe/moe_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

void sigmoid_scores(const float* logits, int64_t E, float* score) {
  const hn::ScalableTag<float> d;
  map_f32(
      E, score, [&](auto x) HWY_ATTR { return sigmoid_f32(d, x); }, logits);
}

void softmax_scores(const float* logits, int64_t E, float* score) {
  const hn::ScalableTag<float> d;
  const auto max = hn::Set(d, *std::max_element(logits, logits + E));
  map_f32(
      E, score, [&](auto x) HWY_ATTR { return exp_f32(d, hn::Sub(x, max)); }, logits);
  double sum = 0;
  for (int64_t e = 0; e < E; ++e) sum += score[e];
  const float inverse = static_cast<float>(1 / sum);
  for (int64_t e = 0; e < E; ++e) score[e] *= inverse;
}

void combine_rows(const CombineArgs& a, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t C = a.x[1], K = a.position[1];
  for (int64_t n = begin; n < end; ++n) {
    float* y = a.y.row<float>(n);
    for (int64_t k = 0; k < K; ++k) {
      const auto weight = hn::Set(d, a.weights.row<float>(n)[k]);
      const float* x = a.x.row<float>(a.position.row<int32_t>(n)[k]);
      if (k == 0 && !a.accumulate)
        map_f32(
            C, y, [&](auto v) HWY_ATTR { return hn::Mul(weight, v); }, x);
      else
        map_f32(
            C, y, [&](auto v, auto sum) HWY_ATTR { return hn::MulAdd(weight, v, sum); }, x,
            static_cast<const float*>(y));
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(sigmoid_scores);
HWY_EXPORT(softmax_scores);
HWY_EXPORT(combine_rows);

// Elements below which another thread costs more than it saves.
constexpr int64_t kRouterGrain = 8192, kCombineGrain = 32768;

// One thread's scratch.
struct RouterScratch {
  float *score, *choice, *group_score;  // [E], [E], [n_groups]
};

// The K largest values in descending order; a later equal one does not displace an earlier. value [K], index [K].
void select_largest(const float* choice, int64_t E, int64_t K, float* value, int32_t* index) {
  int64_t count = 0;
  for (int64_t e = 0; e < E; ++e) {
    if (count == K && !(choice[e] > value[K - 1])) continue;
    int64_t at = count < K ? count++ : K - 1;
    for (; at > 0 && choice[e] > value[at - 1]; --at) value[at] = value[at - 1], index[at] = index[at - 1];
    value[at] = choice[e], index[at] = static_cast<int32_t>(e);
  }
}

// Groups ranked by the sum of their two best choices; all but the best topk_groups get choice 0.
void clear_weak_groups(const RouterArgs& a, const RouterScratch& s) {
  const int64_t G = a.n_groups, width = a.logits[1] / G;
  for (int64_t g = 0; g < G; ++g) {
    float best[2] = {0, 0};
    int32_t at[2];
    select_largest(s.choice + g * width, width, std::min<int64_t>(2, width), best, at);
    s.group_score[g] = best[0] + best[1];
  }
  for (int64_t g = 0; g < G; ++g) {
    int64_t better = 0;
    for (int64_t other = 0; other < G; ++other)
      better += s.group_score[other] > s.group_score[g] || (s.group_score[other] == s.group_score[g] && other < g);
    if (better >= a.topk_groups) std::fill_n(s.choice + g * width, width, 0.0f);
  }
}

void route_token(const RouterArgs& a, int64_t n, const RouterScratch& s) {
  const int64_t E = a.logits[1], K = a.experts[1];
  const float* logits = a.logits.row<float>(n);
  int32_t* experts = a.experts.row<int32_t>(n);
  float* weights = a.weights.row<float>(n);
  bool has_nan = false;
  for (int64_t e = 0; e < E; ++e) has_nan |= logits[e] != logits[e];
  if (has_nan) {
    for (int64_t k = 0; k < K; ++k)
      experts[k] = static_cast<int32_t>(k), weights[k] = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  if (a.score == RouterScore::sigmoid) HWY_DYNAMIC_DISPATCH(sigmoid_scores)(logits, E, s.score);
  else HWY_DYNAMIC_DISPATCH(softmax_scores)(logits, E, s.score);
  const float* bias = a.bias ? a.bias.as<float>() : nullptr;
  for (int64_t e = 0; e < E; ++e) s.choice[e] = s.score[e] + (bias ? bias[e] : 0.0f);
  if (a.n_groups > 1) clear_weak_groups(a, s);
  select_largest(s.choice, E, K, weights, experts);  // weights holds the choices until the next loop
  float sum = 0;
  for (int64_t k = 0; k < K; ++k) {
    const int32_t e = experts[k];
    weights[k] = s.score[e] + (a.biased_weights && bias ? bias[e] : 0.0f);
    sum += weights[k];
  }
  const float factor = a.renormalize ? a.scaling / (sum + 1e-20f) : a.scaling;
  for (int64_t k = 0; k < K; ++k) weights[k] *= factor;
}

}  // namespace

size_t router_simd_workspace(const RouterArgs& a, int n_threads) {
  const size_t row = aligned_size(static_cast<size_t>(a.logits[1]) * sizeof(float));
  return static_cast<size_t>(n_threads) * 3 * row;  // n_groups <= E
}

void router_simd(const RouterArgs& a, const Exec& exec) noexcept {
  const int64_t E = a.logits[1];
  Workspace::Scope scope(exec.workspace);
  const int64_t stride = static_cast<int64_t>(aligned_size(static_cast<size_t>(E) * sizeof(float)) / sizeof(float));
  float* scratch = exec.workspace.take<float>(exec.pool.size() * 3 * stride);
  exec.pool.parallel_for(a.logits[0], std::max<int64_t>(1, kRouterGrain / E),
                         [&](int64_t begin, int64_t end, int thread) {
                           float* mine = scratch + thread * 3 * stride;
                           for (int64_t n = begin; n < end; ++n)
                             route_token(a, n, {mine, mine + stride, mine + 2 * stride});
                         });
}

void combine_simd(const CombineArgs& a, const Exec& exec) noexcept {
  const int64_t work = std::max<int64_t>(1, a.x[1] * a.position[1]);
  exec.pool.parallel_for(a.y[0], std::max<int64_t>(1, kCombineGrain / work), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(combine_rows)(a, begin, end);
  });
}

}  // namespace linnet::ops
#endif
