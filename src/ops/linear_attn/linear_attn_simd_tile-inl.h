// Dense f32 products on a tile of accumulators that stays in registers. Included once per instruction set.
//
// All products of the chunk path are built from one step: tile += a b, with the elements of a broadcast and b read in
// whole vectors. Each tile element is one chain of fused multiply-adds along k ascending, so it depends on nothing but
// its own row of a and column of b: not on the tile it falls into, not on other rows.
#if defined(LINNET_LINEAR_ATTN_TILE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_TILE_INL
#undef LINNET_LINEAR_ATTN_TILE_INL
#else
#define LINNET_LINEAR_ATTN_TILE_INL
#endif

#include "ops/linear_attn/linear_attn_simd_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Two multiply-add units of latency 4 need 8 independent accumulators; 8 x 2 take 16 of 32 registers, 4 x 2 take 8 of
// 16.
constexpr int kTileRows = HWY_TARGET == HWY_AVX3 ? 8 : 4;
constexpr int kTileVecs = 2;

// Columns of a full tile; value columns are handled in panels of this width.
constexpr int64_t panel_width() { return kTileVecs * lanes(); }

template <int kVecs = kTileVecs>
struct Tile {
  Vec at[kTileRows][kVecs];
};

template <int kVecs>
HWY_INLINE void clear(Tile<kVecs>& t) {
  for (int r = 0; r < kTileRows; ++r)
    for (int c = 0; c < kVecs; ++c) t.at[r][c] = hn::Zero(F());
}

// Rows [0, n_rows) of a matrix that has `columns` columns from here on; what is not there is read as 0 and not written.
template <int kVecs>
HWY_INLINE void load(Tile<kVecs>& t, const float* from, int64_t stride, int64_t n_rows, int64_t columns) {
  for (int r = 0; r < kTileRows; ++r)
    for (int c = 0; c < kVecs; ++c)
      t.at[r][c] = r < n_rows ? load_row(from + r * stride, c * lanes(), columns) : hn::Zero(F());
}
template <int kVecs>
HWY_INLINE void store(const Tile<kVecs>& t, float* to, int64_t stride, int64_t n_rows, int64_t columns) {
  for (int r = 0; r < kTileRows; ++r)
    for (int c = 0; c < kVecs; ++c)
      if (r < n_rows) store_row(t.at[r][c], to + r * stride, c * lanes(), columns);
}

// Row r times factor[r].
template <int kVecs>
HWY_INLINE void scale_rows(Tile<kVecs>& t, const float* factor) {
  for (int r = 0; r < kTileRows; ++r)
    for (int c = 0; c < kVecs; ++c) t.at[r][c] = hn::Mul(t.at[r][c], hn::Set(F(), factor[r]));
}

// tile[r, c] += sum_{k < n} a[r * a_row + k * a_k] b[k * b_row + c]
template <int kVecs>
HWY_INLINE void multiply_add(Tile<kVecs>& t, const float* HWY_RESTRICT a, int64_t a_row, int64_t a_k,
                             const float* HWY_RESTRICT b, int64_t b_row, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    Vec bk[kVecs];
    for (int c = 0; c < kVecs; ++c) bk[c] = hn::LoadU(F(), b + k * b_row + c * lanes());
    for (int r = 0; r < kTileRows; ++r) {
      const Vec ark = hn::Set(F(), a[r * a_row + k * a_k]);
      for (int c = 0; c < kVecs; ++c) t.at[r][c] = hn::MulAdd(ark, bk[c], t.at[r][c]);
    }
  }
}

// The product with the part of a that lies in the tile's own rows, a lower triangle [kTileRows, kTileRows]:
// tile[r, c] += sum_{s <= r} a[r, s] b[s, c]. Elements of a above its diagonal are not read.
template <int kVecs>
HWY_INLINE void multiply_add_lower(Tile<kVecs>& t, const float* HWY_RESTRICT a, int64_t a_row,
                                   const float* HWY_RESTRICT b, int64_t b_row) {
  for (int s = 0; s < kTileRows; ++s)
    for (int r = s; r < kTileRows; ++r)
      for (int c = 0; c < kVecs; ++c)
        t.at[r][c] =
            hn::MulAdd(hn::Set(F(), a[r * a_row + s]), hn::LoadU(F(), b + s * b_row + c * lanes()), t.at[r][c]);
}

// Forward substitution: row r += sum_{s < r} a[r, s] row s, with the rows already final. Solves (I - a) x = tile.
template <int kVecs>
HWY_INLINE void solve_lower(Tile<kVecs>& t, const float* HWY_RESTRICT a, int64_t a_row) {
  for (int s = 0; s < kTileRows; ++s)
    for (int r = s + 1; r < kTileRows; ++r)
      for (int c = 0; c < kVecs; ++c) t.at[r][c] = hn::MulAdd(hn::Set(F(), a[r * a_row + s]), t.at[s][c], t.at[r][c]);
}

// to[d, j] = from[j, d] for j < n_rows, d < n_columns, both multiples of 4. In squares of 4 x 4, for cache lines' sake.
inline void transpose(const float* from, int64_t from_row, int64_t n_rows, int64_t n_columns, float* to,
                      int64_t to_row) {
  for (int64_t j = 0; j < n_rows; j += 4)
    for (int64_t d = 0; d < n_columns; d += 4) {
      const float* row = from + j * from_row + d;
      float* column = to + d * to_row + j;
#if HWY_TARGET == HWY_SCALAR
      for (int e = 0; e < 4; ++e)
        for (int i = 0; i < 4; ++i) column[e * to_row + i] = row[i * from_row + e];
#else
      const hn::Full128<float> f;
      const auto r0 = hn::LoadU(f, row), r1 = hn::LoadU(f, row + from_row);
      const auto r2 = hn::LoadU(f, row + 2 * from_row), r3 = hn::LoadU(f, row + 3 * from_row);
      const auto low02 = hn::InterleaveLower(f, r0, r2), low13 = hn::InterleaveLower(f, r1, r3);
      const auto high02 = hn::InterleaveUpper(f, r0, r2), high13 = hn::InterleaveUpper(f, r1, r3);
      hn::StoreU(hn::InterleaveLower(f, low02, low13), f, column);
      hn::StoreU(hn::InterleaveUpper(f, low02, low13), f, column + to_row);
      hn::StoreU(hn::InterleaveLower(f, high02, high13), f, column + 2 * to_row);
      hn::StoreU(hn::InterleaveUpper(f, high02, high13), f, column + 3 * to_row);
#endif
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
