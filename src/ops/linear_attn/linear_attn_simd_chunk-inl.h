// Chunk path: a chunk's operators applied to the state, one panel of value columns at a time. Included
// once per instruction set.
//
// With the operators of linear_attn_simd_operators-inl.h (rows are the chunk's tokens), for the columns of a panel:
//   U     = solution of (I - kk) U = diag(beta) (V + k_in S)      forward substitution, row block by row block
//   out   = q_in S + qk U
//   S    <- diag(decay) S + k_out^T U
// The panel of S is contiguous, [Dk, panel_width()] with Dk padded: it stays in the first-level cache for the whole
// chunk.
#if defined(LINNET_LINEAR_ATTN_CHUNK_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_CHUNK_INL
#undef LINNET_LINEAR_ATTN_CHUNK_INL
#else
#define LINNET_LINEAR_ATTN_CHUNK_INL
#endif

#include "ops/linear_attn/linear_attn_simd_products-inl.h"
#include "ops/linear_attn/linear_attn_simd_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

inline int64_t panel_count(int64_t Dv) { return (Dv + panel_width() - 1) / panel_width(); }
inline int64_t panel_floats(int64_t Dk) { return padded(Dk) * panel_width(); }

// The columns of a state [Dk, Dv] that belong to a panel, and back. Padding is 0.
inline void load_panel(const float* state, int64_t Dk, int64_t Dv, int64_t panel, float* s) {
  const int64_t first = panel * panel_width();
  for (int64_t d = 0; d < padded(Dk); ++d)
    for (int64_t c = 0; c < panel_width(); c += lanes())
      hn::StoreU(d < Dk ? load_row(state + d * Dv + first, c, Dv - first) : hn::Zero(F()), F(),
                 s + d * panel_width() + c);
}
inline void store_panel(const float* s, int64_t Dk, int64_t Dv, int64_t panel, float* state) {
  const int64_t first = panel * panel_width();
  for (int64_t d = 0; d < Dk; ++d)
    for (int64_t c = 0; c < panel_width(); c += lanes())
      store_row(hn::LoadU(F(), s + d * panel_width() + c), state + d * Dv + first, c, Dv - first);
}

// The chunk seen by x (its tokens only), value columns of one panel; s is the panel of the state.
inline void apply_chunk(const LinearAttnHead& x, const ChunkOperators& op, int64_t panel, float* HWY_RESTRICT s) {
  constexpr int64_t L = kLinearAttnChunk;
  const int64_t width = panel_width(), columns = x.Dv - panel * width, ld = op.ld;
  HWY_ALIGN float u[L * 2 * HWY_LANES(float)];  // U, [L, width]
  for (int64_t i = 0; i < x.n_tokens; i += kTileRows) {
    Tile<> t;
    load(t, x.v + i * x.v_stride + panel * width, x.v_stride, x.n_tokens - i, columns);
    if (x.delta) multiply_add(t, op.k_in + i * ld, ld, 1, s, width, x.Dk);
    scale_rows(t, op.beta + i);
    if (x.delta) {
      multiply_add(t, op.kk + i * L, L, 1, u, width, i);
      solve_lower(t, op.kk + i * L + i, L);
    }
    store(t, u + i * width, width, kTileRows, width);
    clear(t);
    multiply_add(t, op.q_in + i * ld, ld, 1, s, width, x.Dk);
    multiply_add(t, op.qk + i * L, L, 1, u, width, i);
    multiply_add_lower(t, op.qk + i * L + i, L, u + i * width, width);
    store(t, x.out + i * x.out_stride + panel * width, x.out_stride, x.n_tokens - i, columns);
  }
  for (int64_t d = 0; d < x.Dk; d += kTileRows) {
    Tile<> t;
    load(t, s + d * width, width, kTileRows, width);
    scale_rows(t, op.decay + d);
    multiply_add(t, op.k_out + d, 1, ld, u, width, x.n_tokens);
    store(t, s + d * width, width, kTileRows, width);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
