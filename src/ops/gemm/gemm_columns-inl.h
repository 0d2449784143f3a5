// Four columns of as many rows as a vector has lanes, transposed in registers. Included once per Highway target: the guard
// toggles.
#if defined(LINNET_OPS_GEMM_COLUMNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_OPS_GEMM_COLUMNS_INL_H_
#undef LINNET_OPS_GEMM_COLUMNS_INL_H_
#else
#define LINNET_OPS_GEMM_COLUMNS_INL_H_
#endif

#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops::gemm {
namespace HWY_NAMESPACE {
namespace {

using namespace ops::HWY_NAMESPACE;  // lanes-inl.h
using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
constexpr int64_t kLanes = hn::MaxLanes(D());

struct Columns {
  V v[4];
};

// load_columns: v[j], lane r = rows[r][at + j], j < 4, r < kLanes.
#if HWY_TARGET == HWY_SCALAR
HWY_INLINE Columns load_columns(const float* const* rows, int64_t at) {
  const float* x = rows[0] + at;
  return {{hn::Set(D(), x[0]), hn::Set(D(), x[1]), hn::Set(D(), x[2]), hn::Set(D(), x[3])}};
}
#else
// 128-bit block b from row 4 b: the loads of a transposition that then stays within blocks.
template <class DX>
HWY_INLINE hn::Vec<DX> load_blocks(DX dx, const float* const* rows, int64_t at) {
  if constexpr (hn::MaxLanes(DX()) == 4) {
    return hn::LoadU(dx, rows[0] + at);
  } else {
    const hn::Half<DX> half;
    constexpr int64_t kHalfRows = hn::MaxLanes(half);
    return hn::Combine(dx, load_blocks(half, rows + kHalfRows, at), load_blocks(half, rows, at));
  }
}

HWY_INLINE Columns load_columns(const float* const* rows, int64_t at) {
  const D d;
  const hn::Repartition<double, D> d64;
  const V r0 = load_blocks(d, rows, at), r1 = load_blocks(d, rows + 1, at);
  const V r2 = load_blocks(d, rows + 2, at), r3 = load_blocks(d, rows + 3, at);
  const auto lo01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
  const auto hi01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
  const auto lo23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
  const auto hi23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
  return {{hn::BitCast(d, hn::InterleaveLower(d64, lo01, lo23)), hn::BitCast(d, hn::InterleaveUpper(d64, lo01, lo23)),
           hn::BitCast(d, hn::InterleaveLower(d64, hi01, hi23)), hn::BitCast(d, hn::InterleaveUpper(d64, hi01, hi23))}};
}
#endif

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops::gemm
HWY_AFTER_NAMESPACE();

#endif
