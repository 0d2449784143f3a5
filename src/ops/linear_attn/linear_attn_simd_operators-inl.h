// Chunk path, first half: what a chunk of up to L = 64 tokens does to any state, from q, k, decay and beta alone. Included once
// per instruction set.
//
// With d_t the decay of token t in [0, 1] (per key channel, or one number for all), and products over tokens of the chunk:
//   q_in_i  = scale q_i prod_{r <= i} d_r             what token i reads from the state before the chunk
//   k_in_i  = -k_i prod_{r <= i} d_r                  what it predicts from it, negated
//   k_out_j = k_j prod_{r > j} d_r                    where its write ends up in the state after the chunk
//   qk_ij   = scale sum_c q_ic k_jc prod_{j < r <= i} d_rc     j <= i
//   kk_ij   = -beta_i sum_c k_ic k_jc prod_{j < r <= i} d_rc   j < i
//   decay   = prod d_r
// These are the formulas of the README with exp(G_i - G_j) written as the product it is. Products of numbers in [0, 1] need no bound
// on the gate: they cannot overflow, an erased channel (d = 0) gives exactly 0, one step of e^-200 spoils no digit of the weak steps
// around it (a difference of cumulative sums would lose what is below 200 * 2^-24), and no factor depends on a token after i.
#if defined(LINNET_LINEAR_ATTN_OPERATORS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_OPERATORS_INL
#undef LINNET_LINEAR_ATTN_OPERATORS_INL
#else
#define LINNET_LINEAR_ATTN_OPERATORS_INL
#endif

#include "ops/linear_attn/linear_attn_simd_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Below this many tokens a decayed product is summed channel by channel, above by bisection.
constexpr int64_t kLeaf = 16;

struct ChunkOperators {
  float *q_in, *k_in, *k_out;  // [L, ld]
  float *qk, *kk;              // [L, L], above the diagonal undefined
  float* decay;                // [ld]
  float* beta;                 // [L]
  int64_t ld;                  // padded Dk

  static int64_t floats(int64_t Dk) {
    constexpr int64_t L = kLinearAttnChunk;
    return 3 * L * padded(Dk) + 2 * L * L + padded(Dk) + L;
  }
  ChunkOperators(float* memory, int64_t Dk) : ld(padded(Dk)) {
    constexpr int64_t L = kLinearAttnChunk;
    q_in = memory, k_in = q_in + L * ld, k_out = k_in + L * ld;
    qk = k_out + L * ld, kk = qk + L * L, decay = kk + L * L, beta = decay + ld;
  }
};

// Temporaries of prepare_chunk: q (times scale), k and decays as padded rows; the two sides of a square of products.
struct ChunkScratch {
  float *q, *k, *d;        // [L, ld]
  float *late_q, *late_k;  // [L / 2, ld]  rows from the anchor on, decayed from it
  float* early;            // [L / 2, ld]  rows before the anchor, decayed up to it
  float* early_t;          // [ld, L]      keys by channel
  float* row;              // [ld]

  static int64_t floats(int64_t Dk) { return (11 * kLinearAttnChunk / 2 + 1) * padded(Dk); }
  ChunkScratch(float* memory, int64_t Dk) {
    const int64_t rows = kLinearAttnChunk * padded(Dk);
    q = memory, k = q + rows, d = k + rows, early_t = d + rows;
    late_q = early_t + rows, late_k = late_q + rows / 2, early = late_k + rows / 2, row = early + rows / 2;
  }
};

// Tokens rounded up to whole leaves; the rows added have q = k = beta = 0 and decay 1.
inline int64_t padded_tokens(int64_t n) { return (n + kLeaf - 1) / kLeaf * kLeaf; }

inline void load_chunk(const LinearAttnHead& x, const ChunkScratch& m, const ChunkOperators& op) {
  const F f;
  const Vec scale = hn::Set(f, x.scale);
  for (int64_t t = 0; t < padded_tokens(x.n_tokens); ++t) {
    const bool real = t < x.n_tokens;
    const float *q = x.q + t * x.q_stride, *k = x.k + t * x.k_stride;
    for (int64_t c = 0; c < op.ld; c += lanes()) {
      hn::StoreU(real ? hn::Mul(scale, load_row(q, c, x.Dk)) : hn::Zero(f), f, m.q + t * op.ld + c);
      hn::StoreU(real ? load_row(k, c, x.Dk) : hn::Zero(f), f, m.k + t * op.ld + c);
    }
    if (real) decay_row(x, t, m.d + t * op.ld);
    else std::fill_n(m.d + t * op.ld, op.ld, 1.0f);
    op.beta[t] = !real ? 0.0f : x.beta ? x.beta[t * x.beta_stride] : 1.0f;
  }
}

// q_in, k_in, k_out and decay: running products from the start of the chunk and from its end.
inline void decay_rows(const ChunkScratch& m, const ChunkOperators& op, int64_t n_rows) {
  const F f;
  for (int64_t c = 0; c < op.ld; c += lanes()) {
    Vec product = hn::Set(f, 1.0f);
    for (int64_t i = c; i < n_rows * op.ld; i += op.ld) {
      product = hn::Mul(product, hn::LoadU(f, m.d + i));
      hn::StoreU(hn::Mul(product, hn::LoadU(f, m.q + i)), f, op.q_in + i);
      hn::StoreU(hn::Neg(hn::Mul(product, hn::LoadU(f, m.k + i))), f, op.k_in + i);
    }
    hn::StoreU(product, f, op.decay + c);
    product = hn::Set(f, 1.0f);
    for (int64_t i = (n_rows - 1) * op.ld + c; i >= 0; i -= op.ld) {
      hn::StoreU(hn::Mul(product, hn::LoadU(f, m.k + i)), f, op.k_out + i);
      product = hn::Mul(product, hn::LoadU(f, m.d + i));
    }
  }
}

// to[i, j] = x_i . y_j, with x [n_rows, ld] and y given by channel, [ld, y_row]. Multiples of kLeaf in rows and columns.
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

// The square of qk and kk whose columns are the `half` tokens before the anchor and whose rows are those from the anchor on: both
// sides are decayed to the anchor's own step, so every factor is a product of decays in between.
inline void decayed_square(const ChunkScratch& m, const ChunkOperators& op, int64_t anchor, int64_t half,
                           int64_t n_rows) {
  const F f;
  const int64_t ld = op.ld, late_rows = std::min(half, n_rows - anchor);
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
  transpose(m.early, ld, half, ld, m.early_t, half);
  const int64_t corner = anchor * kLinearAttnChunk + anchor - half;
  dot_products(m.late_q, late_rows, ld, m.early_t, half, half, op.qk + corner);
  dot_products(m.late_k, late_rows, ld, m.early_t, half, half, op.kk + corner);
}

// The triangle of a leaf: key j decays token by token, and meets the q and k of each.
inline void decayed_leaf(const ChunkScratch& m, const ChunkOperators& op, int64_t first) {
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
inline void decayed_products(const ChunkScratch& m, const ChunkOperators& op, int64_t n_rows) {
  for (int64_t half = kLinearAttnChunk / 2; half >= kLeaf; half /= 2)
    for (int64_t anchor = half; anchor < n_rows; anchor += 2 * half) decayed_square(m, op, anchor, half, n_rows);
  for (int64_t first = 0; first < n_rows; first += kLeaf) decayed_leaf(m, op, first);
}

// The same when all channels decay alike: plain products, then row i times prod_{j < r <= i} d_r, carried from row to row.
inline void scalar_decay_products(const ChunkScratch& m, const ChunkOperators& op, int64_t n_rows) {
  constexpr int64_t L = kLinearAttnChunk;
  const F f;
  transpose(m.k, op.ld, n_rows, op.ld, m.early_t, L);
  HWY_ALIGN float product[L] = {};
  for (int64_t i = 0; i < n_rows; ++i) {
    const int64_t n_columns = padded_tokens(i + 1);
    if (i % kLeaf == 0) {
      dot_products(m.q + i * op.ld, kLeaf, op.ld, m.early_t, L, n_columns, op.qk + i * L);
      dot_products(m.k + i * op.ld, kLeaf, op.ld, m.early_t, L, n_columns, op.kk + i * L);
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

// The operators of the chunk seen by x: at most kLinearAttnChunk tokens.
inline void prepare_chunk(const LinearAttnHead& x, const ChunkScratch& m, const ChunkOperators& op) {
  constexpr int64_t L = kLinearAttnChunk;
  const F f;
  const int64_t n_rows = padded_tokens(x.n_tokens);
  load_chunk(x, m, op);
  decay_rows(m, op, n_rows);
  if (x.decay_per_channel) decayed_products(m, op, n_rows);
  else scalar_decay_products(m, op, n_rows);
  for (int64_t i = 0; i < n_rows; ++i) {
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
