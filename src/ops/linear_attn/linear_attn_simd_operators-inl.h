// Chunk path: the operators, what a chunk of up to L = 64 tokens does to any state, from q, k, decay and beta alone. Here
// their definition and the rows among them; the products are in linear_attn_simd_products-inl.h. Included once per
// instruction set.
//
// With d_t the decay of token t in [0, 1] (per key channel, or one number for all), and products over tokens of the
// chunk:
//   q_in_i  = scale q_i prod_{r <= i} d_r             what token i reads from the state before the chunk
//   k_in_i  = -k_i prod_{r <= i} d_r                  what it predicts from it, negated
//   k_out_j = k_j prod_{r > j} d_r                    where its write ends up in the state after the chunk
//   qk_ij   = scale sum_c q_ic k_jc prod_{j < r <= i} d_rc     j <= i
//   kk_ij   = -beta_i sum_c k_ic k_jc prod_{j < r <= i} d_rc   j < i
//   decay   = prod d_r
// These are the formulas of the README with exp(G_i - G_j) written as the product it is. Products of numbers in [0, 1]
// need no bound on the gate: they cannot overflow, an erased channel (d = 0) gives exactly 0, one step of e^-200 spoils
// no digit of the weak steps around it (a difference of cumulative sums would lose what is below 200 * 2^-24), and no
// factor depends on a token after i.
#if defined(LINNET_LINEAR_ATTN_OPERATORS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_OPERATORS_INL
#undef LINNET_LINEAR_ATTN_OPERATORS_INL
#else
#define LINNET_LINEAR_ATTN_OPERATORS_INL
#endif

#include "ops/linear_attn/linear_attn_simd_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Tokens come in groups of this many: the triangles of products that are summed pair by pair, larger ones being bisected.
constexpr int64_t kLeaf = 16;

// This and ChunkScratch are passed by value: a vector store may alias anything in memory, so pointers behind a reference
// would be loaded again for each element.
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

inline void load_chunk(const LinearAttnHead& x, ChunkScratch m, ChunkOperators op) {
  const F f;
  const Vec scale = hn::Set(f, x.scale);
  for (int64_t t = 0; t < padded_tokens(x.n_tokens); ++t) {
    const bool real = t < x.n_tokens;
    const float *q = x.q + t * x.q_stride, *k = x.k + t * x.k_stride;
    if (real) prefetch_row(x.v + t * x.v_stride, x.Dv);  // read when the operators are ready
    if (t + kPrefetchRows < x.n_tokens) {
      prefetch_row(q + kPrefetchRows * x.q_stride, x.Dk);
      prefetch_row(k + kPrefetchRows * x.k_stride, x.Dk);
      if (x.decay_per_channel) prefetch_row(x.log_decay + (t + kPrefetchRows) * x.decay_stride, x.Dk);
    }
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
inline void decay_rows(ChunkScratch m, ChunkOperators op, int64_t n_rows) {
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

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
