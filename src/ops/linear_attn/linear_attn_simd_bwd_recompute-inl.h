// Gradient, chunk path: what the forward of a chunk leaves for its gradient, computed again. Included once per instruction
// set.
//
// With the operators of linear_attn_simd_operators-inl.h, but kk without beta (kk_ij = -k_i . k_j decayed, j < i), and S the
// state before the chunk:
//   e_i = v_i + k_in_i S + sum_{j<i} kk_ij u_j     what token i finds wrong in the state's prediction; without delta e = v
//   u_i = beta_i e_i                               what it writes
//   S' <- diag(decay) S + k_out^T u
// A slot holds S, e, qk and kk of a chunk until its gradient is due. Value rows (v, e, dout, dv) are kept in panels of
// panel_width() columns, [panels][L][panel_width()], each contiguous.
#if defined(LINNET_LINEAR_ATTN_BWD_RECOMPUTE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_BWD_RECOMPUTE_INL
#undef LINNET_LINEAR_ATTN_BWD_RECOMPUTE_INL
#else
#define LINNET_LINEAR_ATTN_BWD_RECOMPUTE_INL
#endif

#include "ops/linear_attn/linear_attn_simd_chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Sizes of one head's parts, in floats.
struct BwdShape {
  int64_t Dk, Dv, ld, panels, key_panels;

  BwdShape(int64_t Dk_, int64_t Dv_)
      : Dk(Dk_), Dv(Dv_), ld(padded(Dk_)), panels(panel_count(Dv_)), key_panels(panel_count(padded(Dk_))) {}
  int64_t state() const { return panels * panel_floats(Dk); }               // [panels][ld][width]
  int64_t value_panel() const { return kLinearAttnChunk * panel_width(); }  // [L][width]
  int64_t value_rows() const { return panels * value_panel(); }
  int64_t key_rows() const { return kLinearAttnChunk * ld; }                           // [L][ld]
  int64_t transposed_panel() const { return panels * panel_width() * panel_width(); }  // [padded Dv][width]
  int64_t transposed() const { return key_panels * transposed_panel(); }
};

struct BwdSlot {
  float *s, *e, *qk, *kk;

  static int64_t floats(const BwdShape& shape) {
    return shape.state() + shape.value_rows() + 2 * kLinearAttnChunk * kLinearAttnChunk;
  }
  BwdSlot(float* memory, const BwdShape& shape)
      : s(memory), e(s + shape.state()), qk(e + shape.value_rows()), kk(qk + kLinearAttnChunk * kLinearAttnChunk) {}
};

// Elements of row i of a lower triangle times `factor`, the rest of its n_rows columns 0. `diagonal`: keep [i, i].
inline void keep_lower(float* row, int64_t i, bool diagonal, int64_t n_rows, float factor) {
  const F f;
  const int64_t kept = diagonal ? i + 1 : i;
  for (int64_t j = 0; j < n_rows; j += lanes()) {
    const auto inside = hn::FirstN(f, static_cast<size_t>(std::clamp<int64_t>(kept - j, 0, lanes())));
    hn::StoreU(hn::IfThenElseZero(inside, hn::Mul(hn::Set(f, factor), hn::LoadU(f, row + j))), f, row + j);
  }
}

// The operators of the chunk seen by x, op.qk and op.kk being a slot's; both 0 outside their triangles. alone: no state comes
// in or goes out, and the operators that meet one are left undefined.
inline void recompute_operators(const LinearAttnHead& x, ChunkScratch m, ChunkOperators op, bool alone) {
  constexpr int64_t L = kLinearAttnChunk;
  const int64_t n_rows = padded_tokens(x.n_tokens);
  load_chunk(x, m, op);
  if (!alone) decay_rows(m, op, n_rows);
  if (x.decay_per_channel) decayed_products(m, op, n_rows, x.delta);
  else scalar_decay_products(m, op, n_rows, x.delta);
  for (int64_t i = 0; i < n_rows; ++i) {
    keep_lower(op.qk + i * L, i, true, n_rows, 1.0f);
    if (x.delta) keep_lower(op.kk + i * L, i, false, n_rows, -1.0f);
  }
}

// Rows [i, i + kTileRows) of e from t = v + k_in S + the part of kk u that lies before them; u, beta and kk at row i.
HWY_INLINE void solve_errors(Tile<>& t, const float* kk, const float* beta, bool delta, float* u) {
  for (int s = 0; s < kTileRows; ++s)
    for (int c = 0; c < kTileVecs; ++c) {
      const Vec us = hn::Mul(hn::Set(F(), beta[s]), t.at[s][c]);
      hn::StoreU(us, F(), u + s * panel_width() + c * lanes());
      for (int r = s + 1; r < kTileRows && delta; ++r)
        t.at[r][c] = hn::MulAdd(hn::Set(F(), kk[r * kLinearAttnChunk + s]), us, t.at[r][c]);
    }
}

// slot.e, and the state after the chunk in `next` unless that is null. Without has_state slot.s is not read: it is 0.
inline void recompute_panel(const LinearAttnHead& x, const ChunkOperators& op, const BwdShape& shape, BwdSlot slot,
                            bool has_state, int64_t panel, float* next) {
  constexpr int64_t L = kLinearAttnChunk;
  const int64_t width = panel_width(), ld = op.ld, n_rows = padded_tokens(x.n_tokens);
  const float* s = slot.s + panel * panel_floats(x.Dk);
  float* e = slot.e + panel * shape.value_panel();
  HWY_ALIGN float u[L * 2 * HWY_LANES(float)];  // [L, width]
  for (int64_t i = 0; i < n_rows; i += kTileRows) {
    Tile<> t;
    load(t, x.v + i * x.v_stride + panel * width, x.v_stride, x.n_tokens - i, x.Dv - panel * width);
    if (x.delta && has_state) multiply_add(t, op.k_in + i * ld, ld, 1, s, width, x.Dk);
    if (x.delta) multiply_add(t, op.kk + i * L, L, 1, u, width, i);
    solve_errors(t, op.kk + i * L + i, op.beta + i, x.delta, u + i * width);
    store(t, e + i * width, width, kTileRows, width);
  }
  if (!next) return;
  next += panel * panel_floats(x.Dk);
  for (int64_t d = 0; d < ld; d += kTileRows) {
    Tile<> t;
    if (has_state) load(t, s + d * width, width, kTileRows, width), scale_rows(t, op.decay + d);
    else clear(t);
    multiply_add(t, op.k_out + d, 1, ld, u, width, n_rows);
    store(t, next + d * width, width, kTileRows, width);
  }
}

// The whole slot of the chunk seen by x, whose state slot.s already holds.
inline void recompute_chunk(const LinearAttnHead& x, const BwdShape& shape, ChunkScratch m, ChunkOperators op,
                            BwdSlot slot, bool alone, bool has_state, float* next) {
  op.qk = slot.qk, op.kk = slot.kk;
  recompute_operators(x, m, op, alone);
  for (int64_t p = 0; p < shape.panels; ++p) recompute_panel(x, op, shape, slot, has_state, p, next);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
