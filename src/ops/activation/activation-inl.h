// exp, sigmoid, silu and their slopes on Highway vectors. Included once per Highway target: the guard toggles.
#if defined(LINNET_OPS_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_OPS_ACTIVATION_INL_H_
#undef LINNET_OPS_ACTIVATION_INL_H_
#else
#define LINNET_OPS_ACTIVATION_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// e^x: relative error below 2e-7 for x in [-86.6, 88.7]; 0 below (e^-86.6 = 2.4e-38, the last place where the scaling
// stays normal), +inf above, NaN for NaN.
//   n = round(x / ln 2), r = x - n ln 2 in two parts, e^r = 1 + r + r^2 q(r), 2 e^r * 2^(n-1): so n = 128 fits.
// q interpolates (e^r - 1 - r) / r^2 at the five Chebyshev nodes of [-ln2/2, ln2/2]: relative error of e^r 9.7e-9.
// No lower clamp: lanes below the bound hold garbage until the last line clears them.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp_f32(D d, V x) {
  const hn::RebindToSigned<D> di;
  const auto n = hn::NearestInt(hn::Min(hn::Mul(x, hn::Set(d, 1.44269504f)), hn::Set(d, 128.0f)));
  const V nf = hn::ConvertTo(d, n);
  V r =
      hn::NegMulAdd(nf, hn::Set(d, 0.693359375f), x);  // ln 2 = 0.693359375 - 2.12194440e-4; n times the first is exact
  r = hn::MulAdd(nf, hn::Set(d, 2.12194440e-4f), r);
  V q = hn::Set(d, 0.00139261759f);
  q = hn::MulAdd(q, r, hn::Set(d, 0.00836317334f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.0416665561f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.166665778f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.5f));
  const V e = hn::MulAdd(hn::MulAdd(q, r, hn::Set(d, 1.0f)), r, hn::Set(d, 1.0f));
  const V scale = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 126))));
  const V y = hn::Mul(hn::Add(e, e), scale);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -86.6f)), y);
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid_f32(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, exp_f32(d, hn::Neg(x))));
}

// x sigmoid(x); silu(-inf) is NaN (-inf * 0), as the formula has it.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V silu_f32(D d, V x) {
  return hn::Div(x, hn::Add(hn::Set(d, 1.0f), exp_f32(d, hn::Neg(x))));
}

// s = sigmoid(x) and t = 1 - s = sigmoid(-x), both to 5e-7 relative: with e = exp(-|x|) nothing overflows and nothing cancels.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void sigmoid_both_f32(D d, V x, V& s, V& t) {
  const V one = hn::Set(d, 1.0f), e = exp_f32(d, hn::Neg(hn::Abs(x)));
  const V larger = hn::Div(one, hn::Add(one, e)), smaller = hn::Mul(e, larger);
  const auto negative = hn::Lt(x, hn::Zero(d));
  s = hn::IfThenElse(negative, smaller, larger);
  t = hn::IfThenElse(negative, larger, smaller);
}

// silu'(x) = s (1 + x (1 - s)) from s = sigmoid(x); NaN at both infinities, as the formula has it.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V silu_slope_f32(D d, V x, V s) {
  const V one = hn::Set(d, 1.0f);
  return hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
}

}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#endif
