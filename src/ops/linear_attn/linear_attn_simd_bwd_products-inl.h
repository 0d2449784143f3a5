// Gradient, chunk path: through the operators to q, k and log_decay. Included once per instruction set.
//
// qk and kk are bisected as in the forward: in a square every pair's decay is that of its late row times that of its early
// row, so a square's gradient is two products of matrices for each side, and then rows with their decays
// (linear_attn_simd_bwd_rows-inl.h). In a leaf, key j decays token by token and meets the q and k of each; its adjoint
// takes the way back.
#if defined(LINNET_LINEAR_ATTN_BWD_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_BWD_PRODUCTS_INL
#undef LINNET_LINEAR_ATTN_BWD_PRODUCTS_INL
#else
#define LINNET_LINEAR_ATTN_BWD_PRODUCTS_INL
#endif

#include "ops/linear_attn/linear_attn_simd_bwd_chunk-inl.h"
#include "ops/linear_attn/linear_attn_simd_bwd_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

inline DecayedRows rows_of(const ChunkScratch& m, const BwdScratch& b, int64_t ld, int64_t first, int64_t n) {
  return {m.d + first * ld, n, ld, b.running, b.running + ld};
}

// sum_j S_cj dS'_cj times the decay of the chunk: the gradient of every token's log-decay through diag(decay) S.
inline void state_decay_gradient(const BwdShape& shape, const ChunkOperators& op, const BwdScratch& b, float* to) {
  const int64_t width = panel_width();
  for (int64_t c = 0; c < shape.ld; c += lanes()) {
    const int64_t first = c / width * shape.transposed_panel() + c % width;
    Vec sum = hn::Zero(F());
    for (int64_t j = 0; j < shape.panels * width; ++j)
      sum = hn::MulAdd(at(b.s_t + first + j * width), at(b.ds_t + first + j * width), sum);
    put(hn::Mul(sum, at(op.decay + c)), to + c);
  }
}

// dq, dk and dg through q_in, k_in, k_out and decay: overwritten.
inline void bwd_decayed_rows(const BwdShape& shape, const ChunkOperators& op, const ChunkScratch& m,
                             const BwdScratch& b, BwdStates states, int64_t n_rows, bool delta) {
  const DecayedRows rows = rows_of(m, b, shape.ld, 0, n_rows);
  for (float* x : {b.dq, b.dk, b.dg}) std::fill_n(x, n_rows * shape.ld, 0.0f);
  if (states.before) {
    const float* dk_in = delta ? b.dk_in : nullptr;
    undecay_onwards(rows, true, b.dq_in, dk_in, b.dq, b.dk);  // of -k: the sign follows
    for (int64_t i = 0; i < n_rows * shape.ld && delta; i += lanes()) put(hn::Neg(at(b.dk + i)), b.dk + i);
    add_sums_from(rows, b.dq_in, op.q_in, dk_in, op.k_in, b.dg);
  }
  if (states.after_gradient) {
    undecay_up_to(rows, false, b.dk_out, b.dk);
    float* start = states.before ? m.row : nullptr;
    if (start) state_decay_gradient(shape, op, b, start);
    add_sums_before(rows, start, b.dk_out, op.k_out, b.dg);
  }
}

// to[i, c] = sum_j a_ij x_jc + a2_ij x2_jc for whole tiles of rows i and all channels; a2 may be null.
template <int kVecs>
HWY_INLINE void weighted_columns(const float* a, const float* a2, int64_t a_row, int64_t a_k, const float* x,
                                 const float* x2, int64_t n, int64_t ld, float* to) {
  Tile<kVecs> t;
  clear(t);
  multiply_add(t, a, a_row, a_k, x, ld, n);
  if (a2) multiply_add(t, a2, a_row, a_k, x2, ld, n);
  store(t, to, ld, kTileRows, kVecs * lanes());
}
inline void weighted_rows(const float* a, const float* a2, int64_t a_row, int64_t a_k, const float* x, const float* x2,
                          int64_t n, int64_t ld, int64_t n_rows, float* to) {
  int64_t c = 0;
  for (; c + panel_width() <= ld; c += panel_width())
    for (int64_t i = 0; i < n_rows; i += kTileRows)
      weighted_columns<kTileVecs>(a + i * a_row, a2 ? a2 + i * a_row : nullptr, a_row, a_k, x + c, x2 + c, n, ld,
                                  to + i * ld + c);
  for (; c < ld; c += lanes())
    for (int64_t i = 0; i < n_rows; i += kTileRows)
      weighted_columns<1>(a + i * a_row, a2 ? a2 + i * a_row : nullptr, a_row, a_k, x + c, x2 + c, n, ld,
                          to + i * ld + c);
}

// Adds a square's part to dq, dk and dg.
inline void bwd_decayed_square(const ChunkScratch& m, const BwdScratch& b, int64_t ld, int64_t anchor, int64_t half,
                               int64_t n_rows, bool delta) {
  constexpr int64_t L = kLinearAttnChunk;
  const int64_t late_rows = std::min(half, n_rows - anchor), corner = anchor * L + anchor - half;
  const float *dqk = b.dqk + corner, *dkk = delta ? b.dkk + corner : nullptr;
  decayed_sides(m, ld, anchor, half, late_rows);
  weighted_rows(dqk, nullptr, L, 1, m.early, m.early, half, ld, late_rows, b.late_dq);
  if (delta) weighted_rows(dkk, nullptr, L, 1, m.early, m.early, half, ld, late_rows, b.late_dk);
  weighted_rows(dqk, dkk, 1, L, m.late_q, m.late_k, late_rows, ld, half, b.early_dk);

  const float* late_dk = delta ? b.late_dk : nullptr;
  const DecayedRows late = rows_of(m, b, ld, anchor, late_rows), early = rows_of(m, b, ld, anchor - half, half);
  undecay_onwards(late, false, b.late_dq, late_dk, b.dq + anchor * ld, b.dk + anchor * ld);
  add_sums_from(late, b.late_dq, m.late_q, late_dk, m.late_k, b.dg + anchor * ld);
  undecay_up_to(early, true, b.early_dk, b.dk + (anchor - half) * ld);
  add_sums_before(early, nullptr, b.early_dk, m.early, b.dg + (anchor - half) * ld);
}

// Adds a leaf's part, one vector of channels. dqk and dkk [kLeaf, L] from the leaf's corner on; q .. dg from its first row.
template <bool kDelta>
HWY_INLINE void bwd_leaf_columns(const float* dqk, const float* dkk, int64_t ld, const float* q, const float* k,
                                 const float* d, float* dq, float* dk, float* dg) {
  constexpr int64_t L = kLinearAttnChunk;
  const F f;
  HWY_ALIGN float decayed[kLeaf * kLeaf * HWY_LANES(float)];  // [i][j]: key j as token i meets it
  HWY_ALIGN float adjoint[kLeaf * HWY_LANES(float)];          // [j]: gradient of key j as the last token met it
  for (int64_t i = 0; i < kLeaf; ++i) {
    const Vec di = at(d + i * ld);
    float* row = decayed + i * kLeaf * lanes();
    Vec dqi = at(dq + i * ld), dki = at(dk + i * ld);
    for (int64_t j = 0; j < i; ++j) {
      const Vec key = hn::Mul(di, at(row + (j - kLeaf) * lanes()));
      put(key, row + j * lanes());
      dqi = hn::MulAdd(hn::Set(f, dqk[i * L + j]), key, dqi);
      if (kDelta) dki = hn::MulAdd(hn::Set(f, dkk[i * L + j]), key, dki);
    }
    put(at(k + i * ld), row + i * lanes());
    put(hn::MulAdd(hn::Set(f, dqk[i * L + i]), at(k + i * ld), dqi), dq + i * ld);
    put(hn::MulAdd(hn::Set(f, dqk[i * L + i]), at(q + i * ld), dki), dk + i * ld);
  }
  std::fill_n(adjoint, kLeaf * lanes(), 0.0f);
  for (int64_t i = kLeaf - 1; i >= 0; --i) {
    const Vec di = at(d + i * ld), qi = at(q + i * ld), ki = at(k + i * ld);
    Vec dgi = at(dg + i * ld);
    for (int64_t j = 0; j < i; ++j) {
      Vec adj = hn::MulAdd(hn::Set(f, dqk[i * L + j]), qi, at(adjoint + j * lanes()));
      if (kDelta) adj = hn::MulAdd(hn::Set(f, dkk[i * L + j]), ki, adj);
      dgi = hn::MulAdd(adj, at(decayed + (i * kLeaf + j) * lanes()), dgi);
      put(hn::Mul(adj, di), adjoint + j * lanes());
    }
    put(dgi, dg + i * ld);
    put(hn::Add(at(dk + i * ld), at(adjoint + i * lanes())), dk + i * ld);
  }
}

// dq, dk and dg through qk and kk when each channel decays on its own: added.
inline void bwd_decayed_products(const ChunkScratch& m, const BwdScratch& b, int64_t ld, int64_t n_rows, bool delta) {
  for (int64_t half = kLinearAttnChunk / 2; half >= kLeaf; half /= 2)
    for (int64_t anchor = half; anchor < n_rows; anchor += 2 * half)
      bwd_decayed_square(m, b, ld, anchor, half, n_rows, delta);
  for (int64_t first = 0; first < n_rows; first += kLeaf) {
    const int64_t corner = first * kLinearAttnChunk + first;
    for (int64_t c = 0; c < ld; c += lanes()) {
      const int64_t fc = first * ld + c;
      if (delta)
        bwd_leaf_columns<true>(b.dqk + corner, b.dkk + corner, ld, m.q + fc, m.k + fc, m.d + fc, b.dq + fc, b.dk + fc,
                               b.dg + fc);
      else
        bwd_leaf_columns<false>(b.dqk + corner, nullptr, ld, m.q + fc, m.k + fc, m.d + fc, b.dq + fc, b.dk + fc,
                                b.dg + fc);
    }
  }
}

// When all channels decay alike: the gradient of token r's log-decay through qk and kk, sum_{i >= r} sum_{j < r} dqk_ij
// qk_ij + dkk_ij kk_ij, into pair_dg[r]; then dqk and dkk times the decay of their pair.
inline void scalar_decay_pairs(const ChunkScratch& m, const BwdScratch& b, BwdSlot slot, int64_t ld, int64_t n_rows,
                               bool delta, float* pair_dg) {
  constexpr int64_t L = kLinearAttnChunk;
  const F f;
  HWY_ALIGN float column[L] = {}, product[L] = {};  // sum over rows i >= r of column j; prod_{j < s <= r} d_s
  for (int64_t r = n_rows - 1; r >= 0; --r) {
    Vec sum = hn::Zero(f);
    for (int64_t j = 0; j < r; j += lanes()) {
      const int64_t rj = r * L + j;
      Vec pairs = hn::MulAdd(at(b.dqk + rj), at(slot.qk + rj), at(column + j));
      if (delta) pairs = hn::NegMulAdd(at(b.dkk + rj), at(slot.kk + rj), pairs);  // kk has its sign, dkk has not
      put(pairs, column + j);
      sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(f, static_cast<size_t>(std::min(r - j, lanes()))), pairs));
    }
    pair_dg[r] = sum_lanes(sum);
  }
  for (int64_t r = 0; r < n_rows; ++r) {
    const Vec decay = hn::Set(f, m.d[r * ld]);
    for (int64_t j = 0; j < r; j += lanes()) put(hn::Mul(decay, at(product + j)), product + j);
    product[r] = 1;
    for (int64_t j = 0; j <= r; j += lanes()) {
      const int64_t rj = r * L + j;
      put(hn::Mul(at(product + j), at(b.dqk + rj)), b.dqk + rj);
      if (delta) put(hn::Mul(at(product + j), at(b.dkk + rj)), b.dkk + rj);
    }
  }
}

template <int kVecs>
HWY_INLINE void scalar_decay_columns(const ChunkScratch& m, const BwdScratch& b, int64_t ld, int64_t n_rows, int64_t i,
                                     int64_t c, bool delta) {
  constexpr int64_t L = kLinearAttnChunk;
  const int64_t before = i + kTileRows, from = n_rows - i, ic = i * ld + c;
  Tile<kVecs> t;
  load(t, b.dq + ic, ld, kTileRows, kVecs * lanes());
  multiply_add(t, b.dqk + i * L, L, 1, m.k + c, ld, before);
  store(t, b.dq + ic, ld, kTileRows, kVecs * lanes());
  load(t, b.dk + ic, ld, kTileRows, kVecs * lanes());
  multiply_add(t, b.dqk + i * L + i, 1, L, m.q + ic, ld, from);
  if (delta) {
    multiply_add(t, b.dkk + i * L, L, 1, m.k + c, ld, before);
    multiply_add(t, b.dkk + i * L + i, 1, L, m.k + ic, ld, from);
  }
  store(t, b.dk + ic, ld, kTileRows, kVecs * lanes());
}

// dq and dk through qk and kk when all channels decay alike: added. pair_dg as above.
inline void bwd_scalar_decay_products(const ChunkScratch& m, const BwdScratch& b, BwdSlot slot, int64_t ld,
                                      int64_t n_rows, bool delta, float* pair_dg) {
  scalar_decay_pairs(m, b, slot, ld, n_rows, delta, pair_dg);
  int64_t c = 0;
  for (; c + panel_width() <= ld; c += panel_width())
    for (int64_t i = 0; i < n_rows; i += kTileRows) scalar_decay_columns<kTileVecs>(m, b, ld, n_rows, i, c, delta);
  for (; c < ld; c += lanes())
    for (int64_t i = 0; i < n_rows; i += kTileRows) scalar_decay_columns<1>(m, b, ld, n_rows, i, c, delta);
}

HWY_INLINE void write_row(const float* from, Vec factor, bool add, int64_t size, float* to) {
  for (int64_t c = 0; c < size; c += lanes()) {
    const Vec v = hn::Mul(factor, at(from + c));
    store_row(add ? hn::Add(v, load_row(to, c, size)) : v, to, c, size);
  }
}

// The gradients of the chunk's tokens to where they belong. Returns the sum of those of log_decay over tokens and channels
// when they are one number for the head.
inline double write_gradients(const LinearAttnBwdHead& x, const BwdShape& shape, const BwdScratch& b,
                              const float* pair_dg) {
  const F f;
  const Vec one = hn::Set(f, 1.0f), scale = hn::Set(f, x.in.scale);
  double sum = 0;
  for (int64_t t = 0; t < x.in.n_tokens; ++t) {
    write_row(b.dq + t * shape.ld, scale, x.add_keys, shape.Dk, x.dq + t * x.dq_stride);
    write_row(b.dk + t * shape.ld, one, x.add_keys, shape.Dk, x.dk + t * x.dk_stride);
    if (x.dbeta) x.dbeta[t * x.dbeta_stride] = sum_lanes(at(b.dbeta + t * 16));
    if (x.in.decay_per_channel) {
      if (x.dlog_decay) write_row(b.dg + t * shape.ld, one, false, shape.Dk, x.dlog_decay + t * x.dlog_decay_stride);
      continue;
    }
    Vec channels = hn::Zero(f);
    for (int64_t c = 0; c < shape.ld; c += lanes()) channels = hn::Add(channels, at(b.dg + t * shape.ld + c));
    const float dg = sum_lanes(channels) + pair_dg[t];
    if (x.dlog_decay) x.dlog_decay[t * x.dlog_decay_stride] = dg;
    sum += dg;
  }
  return sum;
}

// The gradient of the chunk seen by x: its slot holds what recompute_chunk leaves, m and op the chunk's rows. b.ds becomes
// that of the state before.
inline double bwd_chunk(const LinearAttnBwdHead& x, const BwdShape& shape, const ChunkScratch& m,
                        const ChunkOperators& op, BwdSlot slot, const BwdScratch& b, BwdStates states) {
  const int64_t n_rows = padded_tokens(x.in.n_tokens);
  HWY_ALIGN float pair_dg[kLinearAttnChunk];
  bwd_values(x, shape, op, slot, b, states);
  bwd_decayed_rows(shape, op, m, b, states, n_rows, x.in.delta);
  if (x.in.decay_per_channel) bwd_decayed_products(m, b, shape.ld, n_rows, x.in.delta);
  else bwd_scalar_decay_products(m, b, slot, shape.ld, n_rows, x.in.delta, pair_dg);
  return write_gradients(x, shape, b, pair_dg);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
