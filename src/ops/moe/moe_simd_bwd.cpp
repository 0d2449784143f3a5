// Gradients of routing and combining with Highway vectors; the few values of a token's chosen experts are scalars, in double.
#include <algorithm>

#include "ops/moe/moe_bwd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/moe/moe_simd_bwd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// s = sigmoid(x), t = 1 - s, n of each; x may be s.
void sigmoid_both(const float* x, int64_t n, float* s, float* t) {
  const hn::ScalableTag<float> d;
  map2_f32(
      n, s, t, [&](auto& value, auto& complement, auto v) HWY_ATTR { sigmoid_both_f32(d, v, value, complement); }, x);
}

// p = softmax(x), n of each; p may be x.
void softmax(const float* x, int64_t n, float* p) {
  const hn::ScalableTag<float> d;
  const auto max = hn::Set(d, *std::max_element(x, x + n));
  map_f32(
      n, p, [&](auto v) HWY_ATTR { return exp_f32(d, hn::Sub(v, max)); }, x);
  double sum = 0;
  for (int64_t e = 0; e < n; ++e) sum += double{p[e]};
  const float inverse = static_cast<float>(1 / sum);
  for (int64_t e = 0; e < n; ++e) p[e] *= inverse;
}

// dx = weight dy; returns dy . x. Two accumulators: their order depends on n and the vector width only. dx may be x.
float scale_and_dot(float weight, const float* dy, const float* x, int64_t n, float* dx) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  const auto w = hn::Set(d, weight);
  auto sum0 = hn::Zero(d), sum1 = sum0;
  int64_t i = 0;
  for (; i + 2 * L <= n; i += 2 * L) {
    const auto g0 = hn::LoadU(d, dy + i), g1 = hn::LoadU(d, dy + i + L);
    sum0 = hn::MulAdd(g0, hn::LoadU(d, x + i), sum0), sum1 = hn::MulAdd(g1, hn::LoadU(d, x + i + L), sum1);
    hn::StoreU(hn::Mul(w, g0), d, dx + i), hn::StoreU(hn::Mul(w, g1), d, dx + i + L);
  }
  for (; i < n; i += L) {
    const int64_t rest = std::min(L, n - i);
    const auto g = load_f32_n(d, dy + i, rest);
    sum0 = hn::MulAdd(g, load_f32_n(d, x + i, rest), sum0);
    store_n(hn::Mul(w, g), d, dx + i, rest);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
}

void combine_rows_bwd(const CombineBwdArgs& a, int64_t begin, int64_t end) {
  const int64_t C = a.x[1], K = a.position[1];
  for (int64_t n = begin; n < end; ++n)
    for (int64_t k = 0; k < K; ++k) {
      const int64_t at = a.position.row<int32_t>(n)[k];
      a.dweights.row<float>(n)[k] =
          scale_and_dot(a.weights.row<float>(n)[k], a.dy.row<float>(n), a.x.row<float>(at), C, a.dx.row<float>(at));
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(sigmoid_both);
HWY_EXPORT(softmax);
HWY_EXPORT(combine_rows_bwd);

// Elements below which another thread costs more than it saves.
constexpr int64_t kRouterGrain = 8192, kCombineGrain = 32768;

// One thread's scratch, [K] each: score of the chosen experts, its complement, the score's gradient.
struct ChosenScratch {
  float *score, *complement;
  double* gradient;
};

// gradient = ds of the chosen experts from their scores.
void chosen_gradients(const RouterBwdArgs& a, int64_t n, const ChosenScratch& s) {
  const int64_t K = a.experts[1];
  const int32_t* experts = a.experts.row<int32_t>(n);
  const float* dweights = a.dweights.row<float>(n);
  const float* bias = a.biased_weights && a.bias ? a.bias.as<float>() : nullptr;
  double sum = 1e-20, product = 0;
  for (int64_t k = 0; k < K; ++k) {
    const double value = double{s.score[k]} + (bias ? double{bias[experts[k]]} : 0.0);
    sum += value, product += dweights[k] * value;
  }
  const double factor = a.renormalize ? a.scaling / sum : double{a.scaling}, mean = a.renormalize ? product / sum : 0;
  for (int64_t k = 0; k < K; ++k) s.gradient[k] = factor * (dweights[k] - mean);
}

void sigmoid_token_bwd(const RouterBwdArgs& a, int64_t n, const ChosenScratch& s) {
  const int64_t K = a.experts[1];
  const int32_t* experts = a.experts.row<int32_t>(n);
  float* dlogits = a.dlogits.row<float>(n);
  for (int64_t k = 0; k < K; ++k) s.score[k] = a.logits.row<float>(n)[experts[k]];
  HWY_DYNAMIC_DISPATCH(sigmoid_both)(s.score, K, s.score, s.complement);
  chosen_gradients(a, n, s);
  std::fill_n(dlogits, a.logits[1], 0.0f);
  for (int64_t k = 0; k < K; ++k)
    dlogits[experts[k]] = static_cast<float>(s.gradient[k] * s.score[k] * s.complement[k]);
}

// dlogits holds p until its own values replace it.
void softmax_token_bwd(const RouterBwdArgs& a, int64_t n, const ChosenScratch& s) {
  const int64_t E = a.logits[1], K = a.experts[1];
  const int32_t* experts = a.experts.row<int32_t>(n);
  float* dlogits = a.dlogits.row<float>(n);
  HWY_DYNAMIC_DISPATCH(softmax)(a.logits.row<float>(n), E, dlogits);
  for (int64_t k = 0; k < K; ++k) s.score[k] = dlogits[experts[k]];
  chosen_gradients(a, n, s);
  double product = 0;
  for (int64_t k = 0; k < K; ++k) product += s.gradient[k] * s.score[k];
  for (int64_t e = 0; e < E; ++e) dlogits[e] *= static_cast<float>(-product);
  for (int64_t k = 0; k < K; ++k) dlogits[experts[k]] = static_cast<float>(s.score[k] * (s.gradient[k] - product));
}

size_t scratch_bytes(int64_t K) {
  return 2 * aligned_size(static_cast<size_t>(K) * sizeof(float)) +
         aligned_size(static_cast<size_t>(K) * sizeof(double));
}

}  // namespace

size_t router_simd_bwd_workspace(const RouterBwdArgs& a, int n_threads) {
  return static_cast<size_t>(n_threads) * scratch_bytes(a.experts[1]);
}

void router_simd_bwd(const RouterBwdArgs& a, const Exec& exec) noexcept {
  const int64_t K = a.experts[1];
  Workspace::Scope scope(exec.workspace);
  std::byte* scratch = exec.workspace.take<std::byte>(exec.pool.size() * static_cast<int64_t>(scratch_bytes(K)));
  const int64_t grain = std::max<int64_t>(1, kRouterGrain / a.logits[1]);
  exec.pool.parallel_for(a.logits[0], grain, [&](int64_t begin, int64_t end, int thread) {
    std::byte* mine = scratch + static_cast<size_t>(thread) * scratch_bytes(K);
    const size_t row = aligned_size(static_cast<size_t>(K) * sizeof(float));
    const ChosenScratch s = {reinterpret_cast<float*>(mine), reinterpret_cast<float*>(mine + row),
                             reinterpret_cast<double*>(mine + 2 * row)};
    for (int64_t n = begin; n < end; ++n) {
      if (a.score == RouterScore::sigmoid) sigmoid_token_bwd(a, n, s);
      else softmax_token_bwd(a, n, s);
    }
  });
}

void combine_simd_bwd(const CombineBwdArgs& a, const Exec& exec) noexcept {
  const int64_t work = std::max<int64_t>(1, a.x[1] * a.position[1]);
  exec.pool.parallel_for(a.dy[0], std::max<int64_t>(1, kCombineGrain / work), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(combine_rows_bwd)(a, begin, end);
  });
}

}  // namespace linnet::ops
#endif
