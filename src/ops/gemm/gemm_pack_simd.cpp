// The two transpositions of a product: rows of x into packed panels, and result tiles back into rows of y.
#include <algorithm>

#include "ops/gemm/gemm_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm/gemm_pack_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace linnet::ops::gemm {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
constexpr int64_t kLanes = hn::MaxLanes(D());

struct Columns {
  V v[4];
};

// load_columns: v[j], lane r = rows[r][offset + j], j < 4, r < kLanes.
#if HWY_TARGET == HWY_SCALAR
HWY_INLINE Columns load_columns(const float* const* rows, int64_t offset) {
  const float* at = rows[0] + offset;
  return {{hn::Set(D(), at[0]), hn::Set(D(), at[1]), hn::Set(D(), at[2]), hn::Set(D(), at[3])}};
}
#else
// 128-bit block b from at[4 b * stride], four floats each: the loads of a transposition that then stays within blocks.
template <class DX>
HWY_INLINE hn::Vec<DX> load_blocks(DX dx, const float* const* at, int64_t offset) {
  if constexpr (hn::MaxLanes(DX()) == 4) {
    return hn::LoadU(dx, at[0] + offset);
  } else {
    const hn::Half<DX> half;
    constexpr int64_t kHalfRows = hn::MaxLanes(half);
    return hn::Combine(dx, load_blocks(half, at + kHalfRows, offset), load_blocks(half, at, offset));
  }
}

HWY_INLINE Columns load_columns(const float* const* rows, int64_t offset) {
  const D d;
  const hn::Repartition<double, D> d64;
  const V r0 = load_blocks(d, rows, offset), r1 = load_blocks(d, rows + 1, offset);
  const V r2 = load_blocks(d, rows + 2, offset), r3 = load_blocks(d, rows + 3, offset);
  const auto lo01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1)),
             hi01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
  const auto lo23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3)),
             hi23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
  return {{hn::BitCast(d, hn::InterleaveLower(d64, lo01, lo23)), hn::BitCast(d, hn::InterleaveUpper(d64, lo01, lo23)),
           hn::BitCast(d, hn::InterleaveLower(d64, hi01, hi23)), hn::BitCast(d, hn::InterleaveUpper(d64, hi01, hi23))}};
}
#endif

// Nearest bf16, ties to even, in the upper halves; NaN stays NaN. The lower halves are left over.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_bf16(V x) {
  const hn::RebindToUnsigned<D> du;
  const auto u = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1u));
  const auto rounded = hn::Add(hn::Add(u, hn::Set(du, 0x7fffu)), odd);
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), hn::Or(u, hn::Set(du, 0x400000u)), rounded);
}

struct StoreF32 {
  float* panel;  // at row 0 of the lanes' rows
  static constexpr int64_t kStep = 1;
  HWY_INLINE void operator()(const Columns& c, int64_t k) const {
    for (int64_t j = 0; j < 4; ++j) hn::StoreU(c.v[j], D(), panel + (k + j) * kPanelRows);
  }
};

struct StoreBf16 {
  uint32_t* panel;
  HWY_INLINE void operator()(const Columns& c, int64_t k) const {
    const hn::RebindToUnsigned<D> du;
    for (int64_t j = 0; j < 4; j += 2) {
      const auto even = hn::ShiftRight<16>(round_bf16(c.v[j]));
      const auto odd = hn::And(round_bf16(c.v[j + 1]), hn::Set(du, 0xffff0000u));
      hn::StoreU(hn::Or(even, odd), du, panel + (k + j) / 2 * kPanelRows);
    }
  }
};

// Columns [0, k) of kLanes rows; a last group of fewer than four is completed with zeros. store(columns, k) may write that group whole.
template <class Store>
HWY_INLINE void transpose_rows(const float* const* rows, int64_t k, const Store& store) {
  int64_t i = 0;
  for (; i + 4 <= k; i += 4) store(load_columns(rows, i), i);
  if (i == k) return;
  float rest[kLanes][4] = {};
  const float* at[kLanes];
  for (int64_t r = 0; r < kLanes; ++r) {
    at[r] = rest[r];
    for (int64_t j = 0; i + j < k; ++j) rest[r][j] = rows[r][i + j];
  }
  store(load_columns(at, 0), i);
}

void pack_f32(const float* const* rows, int64_t k, std::byte* panel) {
  float* at = reinterpret_cast<float*>(panel);
  const int64_t whole = k / 4 * 4;
  for (int64_t r = 0; r < kPanelRows; r += kLanes) transpose_rows(rows + r, whole, StoreF32{at + r});
  for (int64_t i = whole; i < k; ++i)
    for (int64_t r = 0; r < kPanelRows; ++r) at[i * kPanelRows + r] = rows[r][i];
}

void pack_bf16(const float* const* rows, int64_t k, std::byte* panel) {
  uint32_t* at = reinterpret_cast<uint32_t*>(panel);
  for (int64_t r = 0; r < kPanelRows; r += kLanes) transpose_rows(rows + r, k, StoreBf16{at + r});
  uint32_t* end = at + panel_bytes_bf16(k) / 4;
  std::fill(std::min(at + (k + 3) / 4 * 2 * kPanelRows, end), end, 0u);
}

void store(const TileStore& s) {
  const D d;
  for (int64_t m = 0; m < s.m; m += 4)
    for (int64_t n = 0; n < s.n; n += kLanes) {
      // Rows n of this panel, four of its 16 columns; rows beyond s.n exist in c and are not stored.
      const float* c = s.c + (m / kPanelRows * kTileRows + n) * kPanelRows + m % kPanelRows;
      const float* at[kLanes];
      for (int64_t r = 0; r < kLanes; ++r) at[r] = c + r * kPanelRows;
      const Columns columns = load_columns(at, 0);
      for (int64_t j = 0; j < std::min<int64_t>(4, s.m - m); ++j) {
        float* y = s.y + (m + j) * s.y_stride + n;
        if (n + kLanes <= s.n) {
          hn::StoreU(s.accumulate ? hn::Add(hn::LoadU(d, y), columns.v[j]) : columns.v[j], d, y);
        } else {
          alignas(64) float rest[kLanes];
          hn::Store(columns.v[j], d, rest);
          for (int64_t r = 0; n + r < s.n; ++r) y[r] = s.accumulate ? y[r] + rest[r] : rest[r];
        }
      }
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops::gemm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops::gemm {

HWY_EXPORT(pack_f32);
HWY_EXPORT(pack_bf16);
HWY_EXPORT(store);

void pack_panel_f32(const float* const* rows, int64_t k, std::byte* panel) noexcept {
  HWY_DYNAMIC_DISPATCH(pack_f32)(rows, k, panel);
}
void pack_panel_bf16(const float* const* rows, int64_t k, std::byte* panel) noexcept {
  HWY_DYNAMIC_DISPATCH(pack_bf16)(rows, k, panel);
}
void store_tile(const TileStore& s) noexcept { HWY_DYNAMIC_DISPATCH(store)(s); }

}  // namespace linnet::ops::gemm
#endif
