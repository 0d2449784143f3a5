// Chunk path: the products of the operators, qk and kk, and prepare_chunk, which makes all of a chunk's operators.
// Included once per instruction set.
#if defined(LINNET_LINEAR_ATTN_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_PRODUCTS_INL
#undef LINNET_LINEAR_ATTN_PRODUCTS_INL
#else
#define LINNET_LINEAR_ATTN_PRODUCTS_INL
#endif

#include "ops/linear_attn/linear_attn_simd_operators-inl.h"
#include "ops/linear_attn/linear_attn_simd_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// to[i, j] = x_i . y_j, with x [n_rows, ld] and y given by channel, [ld, y_row]. Multiples of kLeaf in rows and
// columns.
template <int kVecs>
HWY_INLINE void dot_columns(const float* x, int64_t n_rows, int64_t ld, const float* y, int64_t y_row, float* to) {
  for (int64_t i = 0; i < n_rows; i += kTileRows) {
    Tile<kVecs> t;
    clear(t);
    multiply_add(t, x + i * ld, ld, 1, y, y_row, ld);
    store(t, to + i * kLinearAttnChunk, kLinearAttnChunk, kTileRows, kVecs * lanes());
  }
}
inline void dot_products(const float* x, int64_t n_rows, int64_t ld, const float* y, int64_t y_row, int64_t n_columns,
                         float* to) {
  int64_t j = 0;
  for (; j + panel_width() <= n_columns; j += panel_width())
    dot_columns<kTileVecs>(x, n_rows, ld, y + j, y_row, to + j);
  for (; j < n_columns; j += lanes()) dot_columns<1>(x, n_rows, ld, y + j, y_row, to + j);
}

// The two sides of a square of products, decayed to the anchor's own step: late_q and late_k are the rows from the anchor
// on, early the keys of the `half` tokens before it. So every factor is a product of decays in between.
inline void decayed_sides(ChunkScratch m, int64_t ld, int64_t anchor, int64_t half, int64_t late_rows) {
  const F f;
  for (int64_t c = 0; c < ld; c += lanes()) {
    Vec product = hn::Set(f, 1.0f);
    for (int64_t i = 0; i < late_rows; ++i) {
      const int64_t at = (anchor + i) * ld + c;
      if (i > 0) product = hn::Mul(product, hn::LoadU(f, m.d + at));
      hn::StoreU(hn::Mul(product, hn::LoadU(f, m.q + at)), f, m.late_q + i * ld + c);
      hn::StoreU(hn::Mul(product, hn::LoadU(f, m.k + at)), f, m.late_k + i * ld + c);
    }
    product = hn::Set(f, 1.0f);
    for (int64_t j = half - 1; j >= 0; --j) {
      const int64_t at = (anchor - half + j) * ld + c;
      product = hn::Mul(product, hn::LoadU(f, m.d + at + ld));
      hn::StoreU(hn::Mul(product, hn::LoadU(f, m.k + at)), f, m.early + j * ld + c);
    }
  }
}

// The square of qk and kk whose columns are the `half` tokens before the anchor and whose rows are those from the
// anchor on.
inline void decayed_square(ChunkScratch m, ChunkOperators op, int64_t anchor, int64_t half, int64_t n_rows,
                           bool delta) {
  const int64_t ld = op.ld, late_rows = std::min(half, n_rows - anchor);
  decayed_sides(m, ld, anchor, half, late_rows);
  transpose(m.early, ld, half, ld, m.early_t, half);
  const int64_t corner = anchor * kLinearAttnChunk + anchor - half;
  dot_products(m.late_q, late_rows, ld, m.early_t, half, half, op.qk + corner);
  if (delta) dot_products(m.late_k, late_rows, ld, m.early_t, half, half, op.kk + corner);
}

// The triangle of a leaf: key j decays token by token, and meets the q and k of each.
inline void decayed_leaf(ChunkScratch m, ChunkOperators op, int64_t first) {
  constexpr int64_t L = kLinearAttnChunk;
  const F f;
  const int64_t ld = op.ld;
  for (int64_t j = first; j < first + kLeaf; ++j) {
    std::copy_n(m.k + j * ld, ld, m.row);
    for (int64_t i = j; i < first + kLeaf; ++i) {
      Vec qk = hn::Zero(f), kk = hn::Zero(f);
      for (int64_t c = 0; c < ld; c += lanes()) {
        Vec key = hn::LoadU(f, m.row + c);
        if (i > j) {
          key = hn::Mul(key, hn::LoadU(f, m.d + i * ld + c));
          hn::StoreU(key, f, m.row + c);
        }
        qk = hn::MulAdd(key, hn::LoadU(f, m.q + i * ld + c), qk);
        kk = hn::MulAdd(key, hn::LoadU(f, m.k + i * ld + c), kk);
      }
      op.qk[i * L + j] = sum_lanes(qk);
      op.kk[i * L + j] = sum_lanes(kk);
    }
  }
}

// qk and kk (without -beta) when each channel decays on its own: halve the chunk until leaves are left.
inline void decayed_products(ChunkScratch m, ChunkOperators op, int64_t n_rows, bool delta) {
  for (int64_t half = kLinearAttnChunk / 2; half >= kLeaf; half /= 2)
    for (int64_t anchor = half; anchor < n_rows; anchor += 2 * half) decayed_square(m, op, anchor, half, n_rows, delta);
  for (int64_t first = 0; first < n_rows; first += kLeaf) decayed_leaf(m, op, first);
}

// The same when all channels decay alike: plain products, then row i times prod_{j < r <= i} d_r, carried from row to
// row.
inline void scalar_decay_products(ChunkScratch m, ChunkOperators op, int64_t n_rows, bool delta) {
  constexpr int64_t L = kLinearAttnChunk;
  const F f;
  transpose(m.k, op.ld, n_rows, op.ld, m.early_t, L);
  HWY_ALIGN float product[L] = {};
  for (int64_t i = 0; i < n_rows; ++i) {
    const int64_t n_columns = padded_tokens(i + 1);
    if (i % kLeaf == 0) {
      dot_products(m.q + i * op.ld, kLeaf, op.ld, m.early_t, L, n_columns, op.qk + i * L);
      if (delta) dot_products(m.k + i * op.ld, kLeaf, op.ld, m.early_t, L, n_columns, op.kk + i * L);
    }
    const Vec decay = hn::Set(f, m.d[i * op.ld]);
    for (int64_t j = 0; j < n_columns; j += lanes())
      hn::StoreU(hn::Mul(decay, hn::LoadU(f, product + j)), f, product + j);
    product[i] = 1;
    for (int64_t j = 0; j < n_columns; j += lanes()) {
      const Vec p = hn::LoadU(f, product + j);
      hn::StoreU(hn::Mul(p, hn::LoadU(f, op.qk + i * L + j)), f, op.qk + i * L + j);
      hn::StoreU(hn::Mul(p, hn::LoadU(f, op.kk + i * L + j)), f, op.kk + i * L + j);
    }
  }
}

// The operators of the chunk seen by x: at most kLinearAttnChunk tokens. Without delta kk is undefined.
inline void prepare_chunk(const LinearAttnHead& x, ChunkScratch m, ChunkOperators op) {
  constexpr int64_t L = kLinearAttnChunk;
  const F f;
  const int64_t n_rows = padded_tokens(x.n_tokens);
  load_chunk(x, m, op);
  decay_rows(m, op, n_rows);
  if (x.decay_per_channel) decayed_products(m, op, n_rows, x.delta);
  else scalar_decay_products(m, op, n_rows, x.delta);
  for (int64_t i = 0; i < n_rows && x.delta; ++i) {
    const Vec minus_beta = hn::Set(f, -op.beta[i]);
    for (int64_t j = 0; j < i; j += lanes())
      hn::StoreU(hn::Mul(minus_beta, hn::LoadU(f, op.kk + i * L + j)), f, op.kk + i * L + j);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
