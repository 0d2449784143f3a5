// Normalisations with Highway vectors: one pass for the sum of squares, one for the result, row by row.
#include <algorithm>
#include <cmath>

#include "ops/grain.h"
#include "ops/norm/norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/norm/norm_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Four accumulators hide the latency of the multiply-add; their order depends on n and the vector width only.
float sum_of_squares(const float* x, int64_t n) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + L);
    const auto x2 = hn::LoadU(d, x + i + 2 * L), x3 = hn::LoadU(d, x + i + 3 * L);
    s0 = hn::MulAdd(x0, x0, s0), s1 = hn::MulAdd(x1, x1, s1);
    s2 = hn::MulAdd(x2, x2, s2), s3 = hn::MulAdd(x3, x3, s3);
  }
  for (; i + L <= n; i += L) {
    const auto v = hn::LoadU(d, x + i);
    s0 = hn::MulAdd(v, v, s0);
  }
  if (i < n) {
    const auto v = load_f32_n(d, x + i, n - i);
    s1 = hn::MulAdd(v, v, s1);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
}

// The nearest bf16 value, ties to even, kept as f32; NaN stays NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V round_to_bf16(D d, V x) {
  const hn::RebindToUnsigned<D> du;
  const auto u = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1u));
  const auto rounded = hn::And(hn::Add(hn::Add(u, hn::Set(du, 0x7fffu)), odd), hn::Set(du, 0xffff0000u));
  return hn::IfThenElse(hn::IsNaN(x), x, hn::BitCast(d, rounded));
}

void rms_norm_rows(const RmsNormArgs& a, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t C = a.x[1];
  const float* weight = a.weight.as<float>();
  for (int64_t n = begin; n < end; ++n) {
    const float* x = a.x.row<float>(n);
    const auto inverse = hn::Set(d, 1 / std::sqrt(sum_of_squares(x, C) / static_cast<float>(C) + a.eps));
    const auto plain = [&](auto v, auto w) HWY_ATTR { return hn::Mul(hn::Mul(v, inverse), w); };
    const auto rounded = [&](auto v, auto w) HWY_ATTR { return hn::Mul(round_to_bf16(d, hn::Mul(v, inverse)), w); };
    if (a.round_before_weight) map_f32(C, a.y.row<float>(n), rounded, x, weight);
    else map_f32(C, a.y.row<float>(n), plain, x, weight);
  }
}

void l2_norm_rows(const L2NormArgs& a, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t H = a.x[1], D = a.x[2];
  for (int64_t n = begin; n < end; ++n)
    for (int64_t h = 0; h < H; ++h) {
      const float* x = a.x.row<float>(n) + h * D;
      const auto inverse = hn::Set(d, 1 / std::sqrt(sum_of_squares(x, D) + a.eps));
      map_f32(
          D, a.y.row<float>(n) + h * D, [&](auto v) HWY_ATTR { return hn::Mul(v, inverse); }, x);
    }
}

void gated_norm_rows(const GatedNormArgs& a, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t H = a.x[1], D = a.x[2];
  const float* weight = a.weight.as<float>();
  for (int64_t n = begin; n < end; ++n)
    for (int64_t h = 0; h < H; ++h) {
      const float* x = a.x.row<float>(n) + h * D;
      const float* gate = a.gate.row<float>(n) + h * D;
      float* y = a.y.row<float>(n) + h * D;
      const auto inverse = hn::Set(d, 1 / std::sqrt(sum_of_squares(x, D) / static_cast<float>(D) + a.eps));
      const auto sigmoid = [&](auto v, auto g, auto w)
                               HWY_ATTR { return hn::Mul(hn::Mul(hn::Mul(v, inverse), w), sigmoid_f32(d, g)); };
      const auto silu = [&](auto v, auto g, auto w)
                            HWY_ATTR { return hn::Mul(hn::Mul(hn::Mul(v, inverse), w), silu_f32(d, g)); };
      if (a.activation == GateActivation::sigmoid) map_f32(D, y, sigmoid, x, gate, weight);
      else map_f32(D, y, silu, x, gate, weight);
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(rms_norm_rows);
HWY_EXPORT(l2_norm_rows);
HWY_EXPORT(gated_norm_rows);

// The per-head norms take several times as long for an element.
constexpr Grain kRms{.least = 8192, .most = 16384}, kPerHead{.least = 1024, .most = 16384};
}  // namespace

void rms_norm_simd(const RmsNormArgs& a, const Exec& exec) noexcept {
  exec.pool.parallel_for(a.x[0], kRms.rows(a.x[0], a.x.row_elements(), exec.pool),
                         [&](int64_t begin, int64_t end, int) {
                           HWY_DYNAMIC_DISPATCH(rms_norm_rows)
                           (a, begin, end);
                         });
}

void l2_norm_simd(const L2NormArgs& a, const Exec& exec) noexcept {
  exec.pool.parallel_for(a.x[0], kPerHead.rows(a.x[0], a.x.row_elements(), exec.pool),
                         [&](int64_t begin, int64_t end, int) {
                           HWY_DYNAMIC_DISPATCH(l2_norm_rows)
                           (a, begin, end);
                         });
}

void gated_norm_simd(const GatedNormArgs& a, const Exec& exec) noexcept {
  exec.pool.parallel_for(a.x[0], kPerHead.rows(a.x[0], a.x.row_elements(), exec.pool),
                         [&](int64_t begin, int64_t end, int) {
                           HWY_DYNAMIC_DISPATCH(gated_norm_rows)(a, begin, end);
                         });
}

}  // namespace linnet::ops
#endif
