// What the decay gate and its gradient compute alike. Included once per instruction set.
#if defined(LINNET_DECAY_GATE_SIMD_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_DECAY_GATE_SIMD_INL
#undef LINNET_DECAY_GATE_SIMD_INL
#else
#define LINNET_DECAY_GATE_SIMD_INL
#endif

#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

using F = hn::ScalableTag<float>;
using Vec = hn::Vec<F>;

// exp(-|x|); 1 for NaN, which Highway's Exp must not see (it converts to int, undefined where vectors are emulated).
HWY_INLINE Vec exp_of_minus_abs(Vec x) { return hn::Exp(F(), hn::IfThenZeroElse(hn::IsNaN(x), hn::Neg(hn::Abs(x)))); }

// exp(-|x|) for x = z + bias in more than f32: where the gate is almost closed it is proportional to exp(x), so a
// rounding of x would cost |x| ulp. The rounding error of the sum is exact (Knuth's two-sum) and enters as
// exp(x + low) = exp(x) (1 + low).
HWY_INLINE Vec exp_of_minus_abs_sum(Vec z, Vec bias, Vec x) {
  const F f;
  const Vec from_bias = hn::Sub(x, z);
  const Vec low = hn::Add(hn::Sub(z, hn::Sub(x, from_bias)), hn::Sub(bias, from_bias));
  const Vec sign = hn::And(x, hn::Set(f, -0.0f));
  // Beyond 110 the exponential is 0, and low may be anything.
  const Vec correction = hn::IfThenElseZero(hn::Lt(hn::Abs(x), hn::Set(f, 110.0f)), hn::Neg(hn::Xor(low, sign)));
  const Vec e = exp_of_minus_abs(x);
  return hn::MulAdd(e, correction, e);
}

// rate softplus(x), softplus(x) = max(x, 0) + log1p(exp(-|x|)); rate < 0.
HWY_INLINE Vec softplus_gate(Vec z, Vec bias, Vec rate) {
  const F f;
  const Vec x = hn::Add(z, bias);
  const Vec softplus = hn::Add(hn::Max(x, hn::Zero(f)), hn::Log1p(f, exp_of_minus_abs_sum(z, bias, x)));
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Mul(rate, softplus));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
