// The transpositions of a product: rows (or columns) of x into packed panels, and result tiles back into rows of y.
#include <algorithm>

#include "ops/gemm/gemm_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm/gemm_pack_simd.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/gemm/gemm_columns-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops::gemm {
namespace HWY_NAMESPACE {
namespace {

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
      const auto even = hn::ShiftRight<16>(round_bf16(D(), c.v[j]));
      const auto odd = hn::And(round_bf16(D(), c.v[j + 1]), hn::Set(du, 0xffff0000u));
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

// x(r, k) of a column panel's kLanes rows from r: memory holds them side by side. n < kLanes of them exist.
HWY_INLINE V load_lanes(const float* x, int64_t n) {
  if (n >= kLanes) return hn::LoadU(D(), x);
  return n > 0 ? load_f32_n(D(), x, n) : hn::Zero(D());
}

constexpr int64_t kRowsAhead = 8;  // of x, prefetched: one row's piece is too short to be seen as a stream

void pack_columns_f32(const ColumnPanels& a) {
  for (int64_t k = 0; k < round_up(a.k, kF32DepthStep); ++k)
    for (int64_t c = 0; c < a.columns; c += kPanelRows) {
      const float* x = a.x + k * a.x_stride + c;
      float* to = reinterpret_cast<float*>(a.panels + c / kPanelRows * a.panel_bytes) + k * kPanelRows;
      hwy::Prefetch(x + kRowsAhead * a.x_stride);
      for (int64_t r = 0; r < kPanelRows; r += kLanes)
        hn::StoreU(k < a.k ? load_lanes(x + r, a.columns - c - r) : hn::Zero(D()), D(), to + r);
    }
}

void pack_columns_bf16(const ColumnPanels& a) {
  const hn::RebindToUnsigned<D> du;
  for (int64_t k = 0; k < round_up(a.k, kBf16DepthStep); k += 2)
    for (int64_t c = 0; c < a.columns; c += kPanelRows) {
      const float* x = a.x + k * a.x_stride + c;
      uint32_t* to = reinterpret_cast<uint32_t*>(a.panels + c / kPanelRows * a.panel_bytes) + k / 2 * kPanelRows;
      hwy::Prefetch(x + kRowsAhead * a.x_stride);
      hwy::Prefetch(x + (kRowsAhead + 1) * a.x_stride);
      for (int64_t r = 0; r < kPanelRows; r += kLanes) {
        const int64_t n = a.columns - c - r;
        const V even = k < a.k ? load_lanes(x + r, n) : hn::Zero(D());
        const V odd = k + 1 < a.k ? load_lanes(x + a.x_stride + r, n) : hn::Zero(D());
        const auto low = hn::ShiftRight<16>(round_bf16(D(), even));
        hn::StoreU(hn::Or(low, hn::And(round_bf16(D(), odd), hn::Set(du, 0xffff0000u))), du, to + r);
      }
    }
}

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
HWY_EXPORT(pack_columns_f32);
HWY_EXPORT(pack_columns_bf16);
HWY_EXPORT(store);

void pack_panel_f32(const float* const* rows, int64_t k, std::byte* panel) noexcept {
  HWY_DYNAMIC_DISPATCH(pack_f32)(rows, k, panel);
}
void pack_panel_bf16(const float* const* rows, int64_t k, std::byte* panel) noexcept {
  HWY_DYNAMIC_DISPATCH(pack_bf16)(rows, k, panel);
}
void pack_column_panels_f32(const ColumnPanels& a) noexcept { HWY_DYNAMIC_DISPATCH(pack_columns_f32)(a); }
void pack_column_panels_bf16(const ColumnPanels& a) noexcept { HWY_DYNAMIC_DISPATCH(pack_columns_bf16)(a); }
void store_part(const Tile& tile, int64_t panel, int64_t panels, int64_t n0, int64_t rows) noexcept {
  HWY_DYNAMIC_DISPATCH(store)(tile, panel, panels, n0, rows);
}

}  // namespace linnet::ops::gemm
#endif
