// The gradient's inner part: one head of one sequence, between expanded keys and values and their gradients. Private to
// this folder.
#pragma once

#include "ops/mla/mla_bwd.h"
#include "ops/mla/mla_simd.h"

namespace linnet::ops {

constexpr int64_t kBwdTile = 64;  // queries of a tile: the columns of a block of scores
constexpr int64_t kBwdBand = 16;  // keys at a time on the diagonal, so that little of what the mask hides is computed
// Rows of scratch matrices lie an odd number of cache lines apart (widths are mostly multiples of two lines): rows of a
// block would otherwise share a few sets of the cache.
constexpr int64_t kRowPad = 16;
constexpr int64_t padded_row(int64_t width) { return round_up(width, 16) + kRowPad; }

// Consecutive sequences and consecutive heads, whose keys and values are expanded together.
struct MlaBwdBlock {
  const MlaBwdArgs* args;
  int64_t token, tokens;  // packed tokens [token, token + tokens): whole sequences
  int64_t head, heads;    // heads [head, head + heads)
  float* kv;              // [heads, tokens, row()]: the first Dn + Dv of a row are (W_uk c, W_uv c)
  float* dkv;             // the same of their gradients
  float* dshared;         // [heads, tokens, Dr]: each head's part of the shared keys' gradient

  int64_t row() const { return padded_row(args->Dn + args->Dv); }
};

// Floats of scratch for sequences of up to n tokens.
int64_t mla_head_bwd_scratch(const MlaBwdArgs& args, int64_t n);

// Tokens [token, token + n), a sequence of the block, head h of the block: dq, and dkv and dshared of its rows, all
// overwritten. Returns the largest scaled score. n >= 1.
float mla_head_bwd(const MlaBwdBlock& block, int64_t token, int64_t n, int64_t h, float* scratch) noexcept;

}  // namespace linnet::ops
