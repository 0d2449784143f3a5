// The two transpositions of a product: rows of x into packed panels, and result tiles back into rows of y.
#include <algorithm>

#include "ops/gemm/gemm_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm/gemm_pack_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

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

// Nearest bf16, ties to even, in the upper halves; NaN stays NaN. The lower halves are left over.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> round_bf16(V x) {
  const hn::RebindToUnsigned<D> du;
  const auto u = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(u), hn::Set(du, 1u));
  const auto rounded = hn::Add(hn::Add(u, hn::Set(du, 0x7fffu)), odd);
  return hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(x)), hn::Or(u, hn::Set(du, 0x400000u)), rounded);
}

// Each writes four columns of kLanes rows, the first being row r and column k of the panel.
struct PutF32 {
  static constexpr int64_t kStep = kF32DepthStep;
  HWY_INLINE void operator()(const Columns& c, std::byte* panel, int64_t r, int64_t k) const {
    float* to = reinterpret_cast<float*>(panel) + k * kPanelRows + r;
    for (int64_t j = 0; j < 4; ++j) hn::StoreU(c.v[j], D(), to + j * kPanelRows);
  }
};
struct PutBf16 {
  static constexpr int64_t kStep = kBf16DepthStep;
  HWY_INLINE void operator()(const Columns& c, std::byte* panel, int64_t r, int64_t k) const {
    const hn::RebindToUnsigned<D> du;
    uint32_t* to = reinterpret_cast<uint32_t*>(panel) + k / 2 * kPanelRows + r;
    for (int64_t j = 0; j < 4; j += 2) {
      const auto even = hn::ShiftRight<16>(round_bf16(c.v[j]));
      const auto odd = hn::And(round_bf16(c.v[j + 1]), hn::Set(du, 0xffff0000u));
      hn::StoreU(hn::Or(even, odd), du, to + j / 2 * kPanelRows);
    }
  }
};

template <class Put>
void pack(const float* const* rows, int64_t k, std::byte* panel, const Put& put) {
  const int64_t whole = k / 4 * 4;
  for (int64_t r = 0; r < kPanelRows; r += kLanes) {
    for (int64_t i = 0; i < whole; i += 4) put(load_columns(rows + r, i), panel, r, i);
    float rest[kLanes][4] = {};
    const float* at[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      at[lane] = rest[lane];
      std::copy(rows[r + lane] + whole, rows[r + lane] + k, rest[lane]);
    }
    for (int64_t i = whole; i < round_up(k, Put::kStep); i += 4) {
      put(load_columns(at, 0), panel, r, i);
      std::fill_n(&rest[0][0], kLanes * 4, 0.0f);
    }
  }
}

void pack_f32(const float* const* rows, int64_t k, std::byte* panel) { pack(rows, k, panel, PutF32()); }
void pack_bf16(const float* const* rows, int64_t k, std::byte* panel) { pack(rows, k, panel, PutBf16()); }

// The first n lanes of v to y, or onto it. Touches nothing beyond them.
HWY_INLINE void put_lanes(V v, float* y, int64_t n, bool accumulate) {
  const D d;
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
  const auto mask = hn::FirstN(d, static_cast<size_t>(n));
  hn::BlendedStore(accumulate ? hn::Add(hn::MaskedLoad(mask, d, y), v) : v, mask, d, y);
#else
  store_n(accumulate ? hn::Add(load_f32_n(d, y, n), v) : v, d, y, n);
#endif
}

void store(const Tile& t, int64_t panel, int64_t panels, int64_t n0, int64_t rows) {
  const D d;
  const int64_t m0 = panel * kPanelRows, m_end = std::min(t.m, m0 + panels * kPanelRows),
                n_end = std::min(t.n, n0 + rows);
  for (int64_t m = m0; m < m_end; m += 4)
    for (int64_t n = n0; n < n_end; n += kLanes) {
      const float* c = t.c + (m / kPanelRows * kTileRows + n) * kPanelRows + m % kPanelRows;
      const float* at[kLanes];  // rows from n_end on exist in c and are not stored
      for (int64_t r = 0; r < kLanes; ++r) at[r] = c + r * kPanelRows;
      const Columns columns = load_columns(at, 0);
      for (int64_t j = 0; j < std::min<int64_t>(4, m_end - m); ++j) {
        float* y = t.y + (m + j) * t.y_stride + n;
        if (n + kLanes > n_end) put_lanes(columns.v[j], y, n_end - n, t.accumulate);
        else hn::StoreU(t.accumulate ? hn::Add(hn::LoadU(d, y), columns.v[j]) : columns.v[j], d, y);
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
void store_part(const Tile& tile, int64_t panel, int64_t panels, int64_t n0, int64_t rows) noexcept {
  HWY_DYNAMIC_DISPATCH(store)(tile, panel, panels, n0, rows);
}

}  // namespace linnet::ops::gemm
#endif
