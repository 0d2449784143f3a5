// The gradient's inner part: one head of one sequence. Tiles of 64 queries pass all keys they see; scores stand
// transposed, [key][query], so that softmax runs along vectors of queries, the keys, values and their gradients are read
// and written where they lie, and only the tile's own rows are ever turned.
#include <limits>

#include "ops/mla/mla_simd_bwd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/mla/mla_simd_bwd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/mla/mla_kernels-inl.h"

#ifndef LINNET_OPS_MLA_BWD_SHARED  // what the targets share, once
#define LINNET_OPS_MLA_BWD_SHARED
namespace linnet::ops {

struct Ones {
  float at[kBwdTile];
  constexpr Ones() : at() {
    for (float& x : at) x = 1;
  }
};
constexpr Ones kOnes;  // c_scale of a sum that goes on

// A tile of queries of one head, and its scratch.
struct BwdTile {
  int64_t q0, rows;                  // queries [q0, q0 + rows) of the sequence
  float *q, *dout, *dq;              // [kBwdTile, padded_row(Dn + Dr)], [.., padded_row(Dv)], as q
  float *q_panels, *dout_panels;     // the same turned, see turn()
  float *max, *inverse_sum, *delta;  // [kBwdTile]; delta = out . dout
  float* dp;                         // [kMlaBlock, kBwdTile]
  float* p;                          // [keys, kBwdTile]: scores, then exp(score - max), then probabilities
};

// The head's matrices at the sequence's first token.
struct BwdHead {
  const MlaBwdArgs* args;
  int64_t n, row;
  const float *kv, *shared;  // [n, row], [n, R + Dr]
  float *dkv, *dshared;      // [n, row], [n, Dr]
};

}  // namespace linnet::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// A tile's turned rows lie in panels as wide as a tile of sum_rows: [kBwdTile / kPanel][width][kPanel].
constexpr int64_t kPanel = kSumVectors * kLanes;
static_assert(kBwdTile % kPanel == 0 && kBwdTile % kBwdBand == 0);

// panel[d, i] = x[i, d] for i < rows, 0 beyond.
void turn_panel(const float* x, int64_t stride, int64_t rows, int64_t width, float* panel) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  const hn::RepartitionToWide<decltype(d)> wide;
  for (; i + 4 <= rows; i += 4) {
    const float* from = x + i * stride;
    int64_t c = 0;
    for (; c + 4 <= width; c += 4) {
      const auto r0 = hn::LoadU(d, from + c), r1 = hn::LoadU(d, from + stride + c);
      const auto r2 = hn::LoadU(d, from + 2 * stride + c), r3 = hn::LoadU(d, from + 3 * stride + c);
      const auto lo01 = hn::BitCast(wide, hn::InterleaveLower(d, r0, r1));
      const auto hi01 = hn::BitCast(wide, hn::InterleaveUpper(d, r0, r1));
      const auto lo23 = hn::BitCast(wide, hn::InterleaveLower(d, r2, r3));
      const auto hi23 = hn::BitCast(wide, hn::InterleaveUpper(d, r2, r3));
      float* to = panel + c * kPanel + i;
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, lo01, lo23)), d, to);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, lo01, lo23)), d, to + kPanel);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, hi01, hi23)), d, to + 2 * kPanel);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, hi01, hi23)), d, to + 3 * kPanel);
    }
    for (; c < width; ++c)
      for (int64_t r = 0; r < 4; ++r) panel[c * kPanel + i + r] = from[r * stride + c];
  }
#endif
  for (; i < rows; ++i)
    for (int64_t c = 0; c < width; ++c) panel[c * kPanel + i] = x[i * stride + c];
  if (rows < kPanel)
    for (int64_t c = 0; c < width; ++c) std::fill_n(panel + c * kPanel + rows, kPanel - rows, 0.0f);
}

// Copies the rows of a tile and turns them.
void take_rows(const float* x, int64_t stride, int64_t rows, int64_t width, float* copy, float* panels) {
  const int64_t row = padded_row(width);
  for (int64_t i = 0; i < rows; ++i) std::copy_n(x + i * stride, width, copy + i * row);
  for (int64_t i = 0; i < rows; i += kPanel)
    turn_panel(copy + i * row, row, std::min(kPanel, rows - i), width, panels + i * width);
}

float dot(const float* a, const float* b, int64_t n) {
  const Tag d;
  Vec sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) sum = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), sum);
  if (i < n) sum = hn::MulAdd(load_f32_n(d, a + i, n - i), load_f32_n(d, b + i, n - i), sum);
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

// Scores of keys [key, key + keys) for the queries from `column` of the tile on, not yet scaled.
void multiply_keys(const BwdHead& x, const BwdTile& t, int64_t key, int64_t keys, int64_t column) {
  const MlaBwdArgs& a = *x.args;
  for (int64_t i = column / kPanel * kPanel; i < t.rows; i += kPanel) {
    const float* panel = t.q_panels + i * (a.Dn + a.Dr);
    float* score = t.p + key * kBwdTile + i;
    sum_rows<float>({keys, kPanel, a.Dn, x.kv + key * x.row, x.row, panel, kPanel, score, kBwdTile, nullptr});
    if (a.Dr > 0)
      sum_rows<float>({keys, kPanel, a.Dr, x.shared + key * (a.R + a.Dr), a.R + a.Dr, panel + a.Dn * kPanel, kPanel,
                       score, kBwdTile, kOnes.at});
  }
}

// Queries [i, i + lanes) of the tile that see the tile's key j.
HWY_INLINE auto sees(int64_t i, int64_t j) {
  const Tag d;
  return hn::Not(hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(j - i, 0, kLanes))));
}

// For kSumVectors vectors of queries from i on: scores to exp(score - max), 0 where a query does not see a key.
void softmax_columns(const BwdTile& t, int64_t i, float scale) {
  const Tag d;
  const Vec lowest = hn::Set(d, -std::numeric_limits<float>::infinity()), vscale = hn::Set(d, scale);
  Vec max[kSumVectors], sum[kSumVectors];
  for (int v = 0; v < kSumVectors; ++v) max[v] = lowest, sum[v] = hn::Zero(d);
  const int64_t keys = t.q0 + t.rows;
  float* p = t.p + i;
  for (int64_t key = 0; key < keys; ++key)
    for (int v = 0; v < kSumVectors; ++v) {
      Vec score = hn::Mul(hn::Load(d, p + key * kBwdTile + v * kLanes), vscale);
      if (key > t.q0 + i) score = hn::IfThenElse(sees(i + v * kLanes, key - t.q0), score, lowest);
      max[v] = hn::Max(max[v], score);
    }
  for (int64_t key = 0; key < keys; ++key)
    for (int v = 0; v < kSumVectors; ++v) {
      float* at = p + key * kBwdTile + v * kLanes;
      Vec e = exp_f32(d, hn::Sub(hn::Mul(hn::Load(d, at), vscale), max[v]));
      if (key > t.q0 + i) e = hn::IfThenElseZero(sees(i + v * kLanes, key - t.q0), e);
      hn::Store(e, d, at);
      sum[v] = hn::Add(sum[v], e);
    }
  for (int v = 0; v < kSumVectors; ++v) {
    hn::Store(max[v], d, t.max + i + v * kLanes);
    hn::Store(hn::Div(hn::Set(d, 1.0f), sum[v]), d, t.inverse_sum + i + v * kLanes);
  }
}

// p = probabilities; dp in: dout . v, out: scale * p (dp - delta), the gradient of q . k.
void softmax_bwd(const BwdTile& t, float* p, int64_t keys, int64_t column, float scale) {
  const Tag d;
  for (int64_t i = column / kLanes * kLanes; i < t.rows; i += kLanes) {
    const Vec inverse = hn::Load(d, t.inverse_sum + i), delta = hn::Load(d, t.delta + i), vscale = hn::Set(d, scale);
    for (int64_t key = 0; key < keys; ++key) {
      float *at = p + key * kBwdTile + i, *dp = t.dp + key * kBwdTile + i;
      const Vec probability = hn::Mul(hn::Load(d, at), inverse);
      hn::Store(probability, d, at);
      hn::Store(hn::Mul(hn::Mul(probability, vscale), hn::Sub(hn::Load(d, dp), delta)), d, dp);
    }
  }
}

// Gradients from keys [key, key + keys) and the queries from `column` on. On the diagonal, which comes first for each key
// and each query, gradients of keys are written; the first band of all writes dq. Everything else adds.
void pass_keys_bwd(const BwdHead& x, const BwdTile& t, int64_t key, int64_t keys, int64_t column) {
  const MlaBwdArgs& a = *x.args;
  float* p = t.p + key * kBwdTile;
  const float *k = x.kv + key * x.row, *v = k + a.Dn;
  for (int64_t i = column / kPanel * kPanel; i < t.rows; i += kPanel)
    sum_rows<float>({keys, kPanel, a.Dv, v, x.row, t.dout_panels + i * a.Dv, kPanel, t.dp + i, kBwdTile, nullptr});
  softmax_bwd(t, p, keys, column, a.scale);

  const int64_t q_row = padded_row(a.Dn + a.Dr), dout_row = padded_row(a.Dv), queries = t.rows - column;
  const float* old_keys = key >= t.q0 ? nullptr : kOnes.at;
  const float *q = t.q + column * q_row, *ds = t.dp + column;
  float* dk = x.dkv + key * x.row;
  sum_rows<float>(
      {keys, a.Dv, queries, p + column, kBwdTile, t.dout + column * dout_row, dout_row, dk + a.Dn, x.row, old_keys});
  sum_rows<float>({keys, a.Dn, queries, ds, kBwdTile, q, q_row, dk, x.row, old_keys});
  const float* old_queries = key == t.q0 ? nullptr : kOnes.at;
  float* dq = t.dq + column * q_row;
  sum_rows<float>({.m = queries,
                   .n = a.Dn,
                   .k = keys,
                   .a = ds,
                   .lda = 1,
                   .b = k,
                   .ldb = x.row,
                   .c = dq,
                   .ldc = q_row,
                   .c_scale = old_queries,
                   .a_step = kBwdTile});
  if (a.Dr == 0) return;
  const int64_t E = a.R + a.Dr;
  sum_rows<float>({keys, a.Dr, queries, ds, kBwdTile, q + a.Dn, q_row, x.dshared + key * a.Dr, a.Dr, old_keys});
  sum_rows<float>({.m = queries,
                   .n = a.Dr,
                   .k = keys,
                   .a = ds,
                   .lda = 1,
                   .b = x.shared + key * E,
                   .ldb = E,
                   .c = dq + a.Dn,
                   .ldc = q_row,
                   .c_scale = old_queries,
                   .a_step = kBwdTile});
}

// f(key, keys, column) for all keys that the tile sees: the diagonal in bands, of which queries before `column` see
// nothing, then the keys before it in blocks.
template <class F>
HWY_INLINE void for_keys(const BwdTile& t, F f) {
  for (int64_t j = 0; j < t.rows; j += kBwdBand) f(t.q0 + j, std::min(kBwdBand, t.rows - j), j);
  for (int64_t key = 0; key < t.q0; key += kMlaBlock) f(key, kMlaBlock, int64_t{0});
}

BwdTile take_tile(const MlaBwdArgs& a, float* scratch) {
  const int64_t Dk = a.Dn + a.Dr;
  const auto take = [&](int64_t n) {
    float* at = scratch;
    scratch += round_up(n, 16);
    return at;
  };
  BwdTile t{};
  t.q = take(kBwdTile * padded_row(Dk)), t.dq = take(kBwdTile * padded_row(Dk));
  t.dout = take(kBwdTile * padded_row(a.Dv));
  t.q_panels = take(kBwdTile * Dk), t.dout_panels = take(kBwdTile * a.Dv);
  t.max = take(kBwdTile), t.inverse_sum = take(kBwdTile), t.delta = take(kBwdTile);
  t.dp = take(kMlaBlock * kBwdTile);
  t.p = scratch;
  return t;
}

float head_bwd(const MlaBwdBlock& block, int64_t token, int64_t n, int64_t h, float* scratch) {
  const MlaBwdArgs& a = *block.args;
  const int64_t at = h * block.tokens + token - block.token, row = block.row(), head = block.head + h;
  const int64_t Dk = a.Dn + a.Dr;
  const BwdHead x{&a,
                  n,
                  row,
                  block.kv + at * row,
                  a.latent.row<float>(token) + a.R,
                  block.dkv + at * row,
                  block.dshared + at * a.Dr};
  BwdTile t = take_tile(a, scratch);
  float max = -std::numeric_limits<float>::infinity();
  for (t.q0 = 0; t.q0 < n; t.q0 += kBwdTile) {
    t.rows = std::min(kBwdTile, n - t.q0);
    const int64_t first = token + t.q0;
    take_rows(a.q.row<float>(first) + head * Dk, a.q.row_stride, t.rows, Dk, t.q, t.q_panels);
    take_rows(a.dout.row<float>(first) + head * a.Dv, a.dout.row_stride, t.rows, a.Dv, t.dout, t.dout_panels);
    std::fill_n(t.delta, kBwdTile, 0.0f);
    for (int64_t i = 0; i < t.rows; ++i)
      t.delta[i] = dot(t.dout + i * padded_row(a.Dv), a.out.row<float>(first + i) + head * a.Dv, a.Dv);
    for_keys(t, [&](int64_t key, int64_t keys, int64_t column) HWY_ATTR { multiply_keys(x, t, key, keys, column); });
    for (int64_t i = 0; i < t.rows; i += kPanel) softmax_columns(t, i, a.scale);
    for_keys(t, [&](int64_t key, int64_t keys, int64_t column) HWY_ATTR { pass_keys_bwd(x, t, key, keys, column); });
    for (int64_t i = 0; i < t.rows; ++i) {
      std::copy_n(t.dq + i * padded_row(Dk), Dk, a.dq.row<float>(first + i) + head * Dk);
      max = std::max(max, t.max[i]);
    }
  }
  return max;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
HWY_EXPORT(head_bwd);

int64_t mla_head_bwd_scratch(const MlaBwdArgs& a, int64_t n) {
  const int64_t Dk = a.Dn + a.Dr;
  return kBwdTile * (2 * padded_row(Dk) + padded_row(a.Dv) + Dk + a.Dv + 3 + kMlaBlock + round_up(n, kBwdTile));
}

float mla_head_bwd(const MlaBwdBlock& block, int64_t token, int64_t n, int64_t h, float* scratch) noexcept {
  return HWY_DYNAMIC_DISPATCH(head_bwd)(block, token, n, h, scratch);
}

}  // namespace linnet::ops
#endif
