// Gradient, chunk path: through the products with values and with the state. Included once per instruction set.
//
// A chunk is, with the operators and e, u, X of linear_attn_simd_bwd_recompute-inl.h,
//   e = v + k_in S + kk u,  u = diag(beta) e,  out = q_in S + qk u,  S' = diag(decay) S + k_out^T u
// and its gradient, dS' being that of the state after the chunk:
//   du    = k_out dS' + qk^T dout + kk^T dv     backwards through the rows: du_i needs dv of later tokens only
//   dv    = de = diag(beta) du,  dbeta = rows of du . e
//   dqk   = dout u^T (j <= i),  dkk = dv u^T (j < i)
//   dq_in = dout S^T,  dk_in = dv S^T,  dk_out = u dS'^T
//   dS    = diag(decay) dS' + q_in^T dout + k_in^T dv
// Products with S^T and dS'^T need these transposed: in panels of key channels, [key panels][padded Dv][width].
#if defined(LINNET_LINEAR_ATTN_BWD_CHUNK_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_BWD_CHUNK_INL
#undef LINNET_LINEAR_ATTN_BWD_CHUNK_INL
#else
#define LINNET_LINEAR_ATTN_BWD_CHUNK_INL
#endif

#include "ops/linear_attn/linear_attn_simd_bwd.h"
#include "ops/linear_attn/linear_attn_simd_bwd_recompute-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Temporaries of one chunk's gradient.
struct BwdScratch {
  float *dout, *dv;                     // value rows
  float* e_t;                           // [padded Dv, L]
  float *dqk, *dkk;                     // [L, L]
  float *dq_in, *dk_in, *dk_out;        // [L, ld]
  float *dq, *dk, *dg;                  // [L, ld]   of scale q, of k, of log_decay per channel
  float *late_dq, *late_dk, *early_dk;  // [L / 2, ld]
  float* ds;                            // [panels][ld][width]   dS' on entry, dS on return
  float *s_t, *ds_t;                    // transposed
  float* dbeta;                         // [L, 16]   lanes to be added up
  float* running;                       // [2, ld]   a product and a sum along the tokens

  static int64_t floats(const BwdShape& x) {
    constexpr int64_t L = kLinearAttnChunk;
    return 3 * x.value_rows() + 2 * L * L + 6 * x.key_rows() + 3 * x.key_rows() / 2 + x.state() + 2 * x.transposed() +
           16 * L + 2 * x.ld;
  }
  BwdScratch(float* memory, const BwdShape& x) {
    constexpr int64_t L = kLinearAttnChunk;
    dout = memory, dv = dout + x.value_rows(), e_t = dv + x.value_rows();
    dqk = e_t + x.value_rows(), dkk = dqk + L * L;
    dq_in = dkk + L * L, dk_in = dq_in + x.key_rows(), dk_out = dk_in + x.key_rows();
    dq = dk_out + x.key_rows(), dk = dq + x.key_rows(), dg = dk + x.key_rows();
    late_dq = dg + x.key_rows(), late_dk = late_dq + x.key_rows() / 2, early_dk = late_dk + x.key_rows() / 2;
    ds = early_dk + x.key_rows() / 2, s_t = ds + x.state(), ds_t = s_t + x.transposed();
    dbeta = ds_t + x.transposed(), running = dbeta + 16 * L;
  }
};

// Which states exist: one that does not is 0, and nothing is multiplied by it.
struct BwdStates {
  bool before, after_gradient, wants_before_gradient;  // S, dS', dS
};

// to[d, j] = from[j, d]: a state's panels of value columns become panels of key channels.
inline void transpose_state(const float* from, const BwdShape& shape, float* to) {
  const int64_t width = panel_width();
  for (int64_t kp = 0; kp < shape.key_panels; ++kp)
    for (int64_t p = 0; p < shape.panels; ++p) {
      const float* block = from + p * panel_floats(shape.Dk) + kp * width * width;
      float* block_t = to + kp * shape.transposed_panel() + p * width * width;
      const int64_t rows = std::min(width, shape.ld - kp * width);
      if constexpr (panel_width() % 4 == 0) {
        transpose(block, width, rows, width, block_t, width);
      } else {
        for (int64_t d = 0; d < rows; ++d)
          for (int64_t j = 0; j < width; ++j) block_t[j * width + d] = block[d * width + j];
      }
    }
}

// Rows of dout into panels; the padding is 0.
inline void load_dout(const LinearAttnBwdHead& x, const BwdShape& shape, float* to) {
  for (int64_t p = 0; p < shape.panels; ++p)
    for (int64_t t = 0; t < padded_tokens(x.in.n_tokens); ++t) {
      const float* row = x.dout + t * x.dout_stride + p * panel_width();
      if (p == 0 && t + kPrefetchRows < x.in.n_tokens) prefetch_row(row + kPrefetchRows * x.dout_stride, shape.Dv);
      for (int64_t c = 0; c < panel_width(); c += lanes())
        hn::StoreU(t < x.in.n_tokens ? load_row(row, c, shape.Dv - p * panel_width()) : hn::Zero(F()), F(),
                   to + p * shape.value_panel() + t * panel_width() + c);
    }
}

// Rows [i, i + kTileRows): du in t, complete but for the tile's own kk; dv to `dv`; du . e added to dbeta.
HWY_INLINE void solve_du(Tile<>& t, const float* kk, const float* beta, bool delta, const float* e, float* dv,
                         float* dbeta) {
  const F f;
  for (int s = kTileRows - 1; s >= 0; --s) {
    Vec sum = hn::Zero(f);
    for (int c = 0; c < kTileVecs; ++c) {
      const int64_t at = s * panel_width() + c * lanes();
      const Vec dvs = hn::Mul(hn::Set(f, beta[s]), t.at[s][c]);
      sum = hn::MulAdd(t.at[s][c], hn::LoadU(f, e + at), sum);
      hn::StoreU(dvs, f, dv + at);
      for (int r = 0; r < s && delta; ++r)
        t.at[r][c] = hn::MulAdd(hn::Set(f, kk[s * kLinearAttnChunk + r]), dvs, t.at[r][c]);
    }
    hn::StoreU(hn::Add(hn::LoadU(f, dbeta + s * 16), sum), f, dbeta + s * 16);
  }
}

// One panel of value columns: dv, what it adds to dbeta, and dS.
inline void bwd_panel(const LinearAttnBwdHead& x, const BwdShape& shape, const ChunkOperators& op, BwdSlot slot,
                      BwdScratch b, BwdStates states, int64_t panel) {
  constexpr int64_t L = kLinearAttnChunk;
  const int64_t width = panel_width(), ld = op.ld, n_rows = padded_tokens(x.in.n_tokens);
  const float *dout = b.dout + panel * shape.value_panel(), *e = slot.e + panel * shape.value_panel();
  float *ds = b.ds + panel * panel_floats(shape.Dk), *dv = b.dv + panel * shape.value_panel();
  for (int64_t i = n_rows - kTileRows; i >= 0; i -= kTileRows) {
    Tile<> t;
    clear(t);
    if (states.after_gradient) multiply_add(t, op.k_out + i * ld, ld, 1, ds, width, shape.Dk);
    multiply_add(t, slot.qk + i * L + i, 1, L, dout + i * width, width, n_rows - i);
    const int64_t later = i + kTileRows;
    if (x.in.delta) multiply_add(t, slot.kk + later * L + i, 1, L, dv + later * width, width, n_rows - later);
    solve_du(t, slot.kk + i * L + i, op.beta + i, x.in.delta, e + i * width, dv + i * width, b.dbeta + i * 16);
    load(t, dv + i * width, width, kTileRows, width);
    store(t, x.dv + i * x.dv_stride + panel * width, x.dv_stride, x.in.n_tokens - i, shape.Dv - panel * width);
  }
  for (int64_t d = 0; d < ld && states.wants_before_gradient; d += kTileRows) {
    Tile<> t;
    if (states.after_gradient) load(t, ds + d * width, width, kTileRows, width), scale_rows(t, op.decay + d);
    else clear(t);
    multiply_add(t, op.q_in + d, 1, ld, dout, width, n_rows);
    if (x.in.delta) multiply_add(t, op.k_in + d, 1, ld, dv, width, n_rows);
    store(t, ds + d * width, width, kTileRows, width);
  }
}

// tile += rows of x times b, x being value rows (from its row i on) and b [padded Dv, b_row].
template <int kVecs>
HWY_INLINE void multiply_add_values(Tile<kVecs>& t, const float* x, const BwdShape& shape, const float* b,
                                    int64_t b_row) {
  for (int64_t p = 0; p < shape.panels; ++p)
    multiply_add(t, x + p * shape.value_panel(), panel_width(), 1, b + p * panel_width() * b_row, b_row, panel_width());
}

template <int kVecs>
HWY_INLINE void value_products(const float* x, const BwdShape& shape, const float* e_t, const float* beta, float* to) {
  Tile<kVecs> t;
  clear(t);
  multiply_add_values(t, x, shape, e_t, kLinearAttnChunk);
  for (int r = 0; r < kTileRows; ++r)
    for (int c = 0; c < kVecs; ++c) t.at[r][c] = hn::Mul(t.at[r][c], hn::LoadU(F(), beta + c * lanes()));
  store(t, to, kLinearAttnChunk, kTileRows, kVecs * lanes());
}

// to[i, j] = x_i . u_j in the lower triangle, 0 elsewhere.
inline void bwd_products(const float* x, const BwdShape& shape, const float* e_t, const float* beta, int64_t n_rows,
                         bool diagonal, float factor, float* to) {
  constexpr int64_t L = kLinearAttnChunk;
  for (int64_t i = 0; i < n_rows; i += kTileRows) {
    const int64_t n_columns = padded_tokens(i + kTileRows);
    const float* rows = x + i * panel_width();
    int64_t j = 0;
    for (; j + panel_width() <= n_columns; j += panel_width())
      value_products<kTileVecs>(rows, shape, e_t + j, beta + j, to + i * L + j);
    for (; j < n_columns; j += lanes()) value_products<1>(rows, shape, e_t + j, beta + j, to + i * L + j);
  }
  for (int64_t i = 0; i < n_rows; ++i) keep_lower(to + i * L, i, diagonal, n_rows, factor);
}

// dqk and dkk (of k_i . k_j, the sign of kk taken out).
inline void bwd_triangles(const BwdShape& shape, const ChunkOperators& op, BwdSlot slot, BwdScratch b, int64_t n_rows,
                          bool delta) {
  constexpr int64_t L = kLinearAttnChunk;
  const int64_t width = panel_width();
  for (int64_t p = 0; p < shape.panels; ++p) {
    const float* e = slot.e + p * shape.value_panel();
    float* e_t = b.e_t + p * width * L;
    if constexpr (panel_width() % 4 == 0) {
      transpose(e, width, n_rows, width, e_t, L);
    } else {
      for (int64_t i = 0; i < n_rows; ++i)
        for (int64_t j = 0; j < width; ++j) e_t[j * L + i] = e[i * width + j];
    }
  }
  bwd_products(b.dout, shape, b.e_t, op.beta, n_rows, true, 1.0f, b.dqk);
  if (delta) bwd_products(b.dv, shape, b.e_t, op.beta, n_rows, false, -1.0f, b.dkk);
}

// dq_in, dk_in and dk_out, one panel of key channels.
inline void bwd_key_panel(const BwdShape& shape, const ChunkOperators& op, BwdSlot slot, BwdScratch b, BwdStates states,
                          int64_t n_rows, bool delta, int64_t panel) {
  const int64_t width = panel_width(), first = panel * width, ld = shape.ld;
  const float *s_t = b.s_t + panel * shape.transposed_panel(), *ds_t = b.ds_t + panel * shape.transposed_panel();
  const auto rows = [&](const float* x, const float* state, const float* factor, float* to) HWY_ATTR {
    for (int64_t i = 0; i < n_rows; i += kTileRows) {
      Tile<> t;
      clear(t);
      multiply_add_values(t, x + i * width, shape, state, width);
      if (factor) scale_rows(t, factor + i);
      store(t, to + i * ld + first, ld, kTileRows, ld - first);
    }
  };
  if (states.before) rows(b.dout, s_t, nullptr, b.dq_in);
  if (states.before && delta) rows(b.dv, s_t, nullptr, b.dk_in);
  if (states.after_gradient) rows(slot.e, ds_t, op.beta, b.dk_out);
}

// Everything above for one chunk.
inline void bwd_values(const LinearAttnBwdHead& x, const BwdShape& shape, const ChunkOperators& op, BwdSlot slot,
                       BwdScratch b, BwdStates states) {
  const int64_t n_rows = padded_tokens(x.in.n_tokens);
  load_dout(x, shape, b.dout);
  if (states.before) transpose_state(slot.s, shape, b.s_t);
  if (states.after_gradient) transpose_state(b.ds, shape, b.ds_t);
  std::fill_n(b.dbeta, n_rows * 16, 0.0f);
  for (int64_t p = 0; p < shape.panels; ++p) bwd_panel(x, shape, op, slot, b, states, p);
  bwd_triangles(shape, op, slot, b, n_rows, x.in.delta);
  for (int64_t p = 0; p < shape.key_panels; ++p) bwd_key_panel(shape, op, slot, b, states, n_rows, x.in.delta, p);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
