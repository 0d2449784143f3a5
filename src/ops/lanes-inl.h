// Vectors of f32 from memory of any float type, whole or partial. Included once per Highway target: the guard toggles.
#if defined(LINNET_OPS_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_OPS_LANES_INL_H_
#undef LINNET_OPS_LANES_INL_H_
#else
#define LINNET_OPS_LANES_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include <hwy/highway.h>

#include "core/dtype.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Lanes(d) values from p, widened to f32 (exact).
template <class D>
HWY_INLINE hn::Vec<D> load_f32(D d, const float* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> load_f32(D d, const bf16* p) {
  const hn::Rebind<hwy::bfloat16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::bfloat16_t*>(p)));
}
template <class D>
HWY_INLINE hn::Vec<D> load_f32(D d, const f16* p) {
#if HWY_ARCH_X86 && HWY_TARGET > HWY_AVX2  // no F16C: Highway 1.0.3 widens infinities and NaN to finite values
  alignas(64) float lanes[hn::MaxLanes(D())];
  for (size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = to_f32(p[i]);
  return hn::Load(d, lanes);
#else
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
#endif
}

// The first n < Lanes(d) values from p, the other lanes zero. Touches no memory beyond them: Highway's masked loads
// may.
template <class D, class T>
HWY_INLINE hn::Vec<D> load_f32_n(D d, const T* p, int64_t n) {
  alignas(64) T lanes[hn::MaxLanes(D())] = {};
  std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
  return load_f32(d, lanes);
}

// Nearest bf16, ties to even, in the upper halves; NaN stays NaN. The lower halves are left over.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_bf16(D, hn::Vec<D> x) {
  const hn::RebindToUnsigned<D> du;
  const auto u = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1u));
  const auto rounded = hn::Add(hn::Add(u, hn::Set(du, 0x7fffu)), odd);
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), hn::Or(u, hn::Set(du, 0x400000u)), rounded);
}

template <class D>
HWY_INLINE void store_n(hn::Vec<D> v, D d, float* p, int64_t n) {
  alignas(64) float lanes[hn::MaxLanes(D())];
  hn::Store(v, d, lanes);
  std::memcpy(p, lanes, static_cast<size_t>(n) * sizeof(float));
}

// g++ 12 repeats a load as the memory operand of every multiply-add that uses it: 27 loads for 24 multiply-adds in a
// tile of attention, more than two a cycle. The empty statement hides where the value came from; no other compiler
// needs it.
template <class D>
HWY_INLINE hn::Vec<D> in_register(D, hn::Vec<D> v) {
#if defined(__GNUC__) && !defined(__clang__) && HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  asm("" : "+v"(v.raw));
#endif
  return v;
}

// to[0..3] = the sums of the lanes of four vectors. Each is the same tree: within blocks of four lanes, then over the
// blocks.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_sums(D d, V v0, V v1, V v2, V v3, float* to) {
#if HWY_TARGET == HWY_SCALAR
  (void)d;
  to[0] = hn::GetLane(v0), to[1] = hn::GetLane(v1), to[2] = hn::GetLane(v2), to[3] = hn::GetLane(v3);
#else
  const hn::RepartitionToWide<D> d64;  // two lanes move as one
  const auto s01 = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, v0, v1), hn::InterleaveUpper(d, v0, v1)));
  const auto s23 = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, v2, v3), hn::InterleaveUpper(d, v2, v3)));
  V sum =
      hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, s01, s23)), hn::BitCast(d, hn::InterleaveUpper(d64, s01, s23)));
  const hn::CappedTag<float, 4> d4;
#if HWY_MAX_BYTES >= 64
  sum = hn::Add(sum, hn::ConcatLowerUpper(d, sum, sum));
  const auto half = hn::LowerHalf(sum);
#elif HWY_MAX_BYTES >= 32
  const auto half = sum;
#endif
#if HWY_MAX_BYTES >= 32
  hn::StoreU(hn::LowerHalf(hn::Add(half, hn::SwapAdjacentBlocks(half))), d4, to);
#else
  hn::StoreU(sum, d4, to);
#endif
#endif
}

#if HWY_MAX_BYTES >= 64
// Lane i = the sum of the lanes of v[i], by the tree of store_sums.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V sums_of_16(D d, const V (&v)[16]) {
  const hn::RepartitionToWide<D> d64;
  const auto within_blocks = [&](const V& v0, const V& v1, const V& v2, const V& v3) HWY_ATTR {
    const auto s01 = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, v0, v1), hn::InterleaveUpper(d, v0, v1)));
    const auto s23 = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, v2, v3), hn::InterleaveUpper(d, v2, v3)));
    return hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, s01, s23)),
                   hn::BitCast(d, hn::InterleaveUpper(d64, s01, s23)));
  };
  // Of two vectors, blocks (0 + 2, 1 + 3) of each, and then all four in each of two blocks.
  const auto over_blocks = [&](const V& low, const V& high) HWY_ATTR {
    const V halves = hn::Add(hn::ConcatLowerLower(d, high, low), hn::ConcatUpperUpper(d, high, low));
    return hn::Add(halves, hn::SwapAdjacentBlocks(halves));
  };
  const V even = over_blocks(within_blocks(v[0], v[1], v[2], v[3]), within_blocks(v[8], v[9], v[10], v[11]));
  const V odd = over_blocks(within_blocks(v[4], v[5], v[6], v[7]), within_blocks(v[12], v[13], v[14], v[15]));
  return hn::OddEvenBlocks(odd, even);
}
#endif

// out[i] = f(in[i]...) for i in [0, n): whole vectors, then one partial vector through the same f, so that an element's
// bits do not depend on where it stands. out may be one of the inputs. A lambda needs HWY_ATTR after its parameters.
template <class F, class... T>
HWY_INLINE void map_f32(int64_t n, float* out, F f, const T*... in) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(f(load_f32(d, in + i)...), d, out + i);
  if (i < n) store_n(f(load_f32_n(d, in + i, n - i)...), d, out + i, n - i);
}

// The same with two results: f(r0, r1, in...) sets its first two arguments. All inputs of a vector are read before its results are
// written, so an output may be one of the inputs.
template <class F, class... T>
HWY_INLINE void map2_f32(int64_t n, float* out0, float* out1, F f, const T*... in) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto r0 = hn::Zero(d), r1 = r0;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    f(r0, r1, load_f32(d, in + i)...);
    hn::StoreU(r0, d, out0 + i), hn::StoreU(r1, d, out1 + i);
  }
  if (i == n) return;
  f(r0, r1, load_f32_n(d, in + i, n - i)...);
  store_n(r0, d, out0 + i, n - i), store_n(r1, d, out1 + i, n - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#endif
