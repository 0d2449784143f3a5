// Passes of the optimizers over spans of numbers with Highway vectors.
#include <algorithm>

#include "ops/optim/optim_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/optim/optim_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops::optim {
namespace HWY_NAMESPACE {
namespace {

using namespace ops::HWY_NAMESPACE;  // lanes-inl.h
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

struct AdamWLanes {
  V w, m, v;
};

HWY_INLINE AdamWLanes adamw_lanes(const AdamWLanes& at, V grad, const AdamWFactors& f) {
  const D d;
  const V g = hn::Mul(hn::Set(d, f.grad_scale), grad);
  const V m = hn::MulAdd(hn::Set(d, f.beta1), at.m, hn::Mul(hn::Set(d, f.one_minus_beta1), g));
  const V v = hn::MulAdd(hn::Set(d, f.beta2), at.v, hn::Mul(hn::Set(d, f.one_minus_beta2), hn::Mul(g, g)));
  const V root = hn::Sqrt(hn::Mul(v, hn::Set(d, f.v_correction)));
  const V direction = hn::Div(hn::Mul(m, hn::Set(d, f.m_correction)), hn::Add(root, hn::Set(d, f.eps)));
  const V kept = hn::NegMulAdd(hn::Set(d, f.decay), at.w, at.w);
  return {hn::NegMulAdd(hn::Set(d, f.lr), direction, kept), m, v};
}

void adamw(const AdamWSpan& s, const AdamWFactors& f) {
  const D d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + L <= s.n; i += L) {
    const AdamWLanes next =
        adamw_lanes({hn::LoadU(d, s.w + i), hn::LoadU(d, s.m + i), hn::LoadU(d, s.v + i)}, hn::LoadU(d, s.grad + i), f);
    hn::StoreU(next.w, d, s.w + i), hn::StoreU(next.m, d, s.m + i), hn::StoreU(next.v, d, s.v + i);
  }
  if (i == s.n) return;
  const int64_t n = s.n - i;
  const AdamWLanes next = adamw_lanes({load_f32_n(d, s.w + i, n), load_f32_n(d, s.m + i, n), load_f32_n(d, s.v + i, n)},
                                      load_f32_n(d, s.grad + i, n), f);
  store_n(next.w, d, s.w + i, n), store_n(next.m, d, s.m + i, n), store_n(next.v, d, s.v + i, n);
}

// Four sums of double lanes.
double sum_of_squares(const float* x, int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  const auto wide = [&](int64_t at) HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(half, x + at)); };
  for (; i + 4 * L <= n; i += 4 * L) {
    const auto x0 = wide(i), x1 = wide(i + L), x2 = wide(i + 2 * L), x3 = wide(i + 3 * L);
    s0 = hn::MulAdd(x0, x0, s0), s1 = hn::MulAdd(x1, x1, s1);
    s2 = hn::MulAdd(x2, x2, s2), s3 = hn::MulAdd(x3, x3, s3);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

void momentum(const MomentumSpan& s) {
  const D d;
  const V mu = hn::Set(d, s.momentum), scale = hn::Set(d, s.scale);
  map_f32(
      s.n, s.m, [&](auto m, auto g) HWY_ATTR { return hn::MulAdd(mu, m, hn::Mul(scale, g)); },
      static_cast<const float*>(s.m), s.grad);
  const auto look_ahead = [&](auto m, auto g) HWY_ATTR { return hn::MulAdd(mu, m, hn::Mul(scale, g)); };
  if (s.nesterov) map_f32(s.n, s.u, look_ahead, static_cast<const float*>(s.m), s.grad);
  else std::copy_n(s.m, s.n, s.u);
}

void scale(float* x, int64_t n, float factor) {
  const V f = hn::Set(D(), factor);
  map_f32(
      n, x, [&](auto v) HWY_ATTR { return hn::Mul(f, v); }, static_cast<const float*>(x));
}

void combine(const float* x, float fx, float* y, float fy, int64_t n) {
  const V vx = hn::Set(D(), fx), vy = hn::Set(D(), fy);
  map_f32(
      n, y, [&](auto a, auto b) HWY_ATTR { return hn::MulAdd(vx, a, hn::Mul(vy, b)); }, x,
      static_cast<const float*>(y));
}

void update(float* w, const float* o, int64_t n, float rate, float decay) {
  const V r = hn::Set(D(), rate), f = hn::Set(D(), decay);
  const auto next = [&](auto a, auto b) HWY_ATTR { return hn::NegMulAdd(r, b, hn::NegMulAdd(f, a, a)); };
  map_f32(n, w, next, static_cast<const float*>(w), o);
}

void narrow(const float* x, int64_t n, bf16* to) {
  const D d;
  const hn::Rebind<uint16_t, D> d16;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    const auto u = hn::ShiftRight<16>(round_bf16(d, hn::LoadU(d, x + i)));
    hn::StoreU(hn::TruncateTo(d16, u), d16, reinterpret_cast<uint16_t*>(to) + i);
  }
  for (; i < n; ++i) to[i] = to_bf16(x[i]);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops::optim
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops::optim {

HWY_EXPORT(adamw);
HWY_EXPORT(sum_of_squares);
HWY_EXPORT(momentum);
HWY_EXPORT(scale);
HWY_EXPORT(combine);
HWY_EXPORT(update);
HWY_EXPORT(narrow);

void adamw_span(const AdamWSpan& s, const AdamWFactors& f) noexcept { HWY_DYNAMIC_DISPATCH(adamw)(s, f); }
double sum_of_squares_span(const float* x, int64_t n) noexcept { return HWY_DYNAMIC_DISPATCH(sum_of_squares)(x, n); }
void momentum_span(const MomentumSpan& s) noexcept { HWY_DYNAMIC_DISPATCH(momentum)(s); }
void scale_span(float* x, int64_t n, float factor) noexcept { HWY_DYNAMIC_DISPATCH(scale)(x, n, factor); }
void combine_span(const float* x, float fx, float* y, float fy, int64_t n) noexcept {
  HWY_DYNAMIC_DISPATCH(combine)(x, fx, y, fy, n);
}
void update_span(float* w, const float* o, int64_t n, float rate, float decay) noexcept {
  HWY_DYNAMIC_DISPATCH(update)(w, o, n, rate, decay);
}
void narrow_span(const float* x, int64_t n, bf16* to) noexcept { HWY_DYNAMIC_DISPATCH(narrow)(x, n, to); }

}  // namespace linnet::ops::optim
#endif
