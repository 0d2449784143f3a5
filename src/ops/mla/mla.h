// Multi-head latent attention without positions (NoPE): contract of the op. Definition: mla_ref.cpp. Prose and floors:
// README.md.
#pragma once

#include <cstddef>

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

constexpr int64_t kMlaBlock = 64;  // rows of a cache block, and keys that softmax advances by

// Per token j the cache holds one row (c_j, r_j): the normalised latent c_j [R] and the key part shared by all heads
// r_j [Dr].
// Per head h, with W_uk = kv_b rows [0, Dn) and W_uv = rows [Dn, Dn + Dv) of the head:
//   k_j = (W_uk c_j, r_j)    v_j = W_uv c_j    out_i = sum_{j <= i} softmax_j(scale * q_i . k_j) v_j
// Two equal ways to compute it, chosen by cost: expanded (k, v from the latents, then ordinary attention) and absorbed
// (W_uk moved onto q, W_uv onto the result; attention runs on the latents themselves). Source: DeepSeek-V2,
// arXiv:2405.04434; Kimi Linear section 4.
struct MlaSequence {
  // The cache [n_past + n_new, R + Dr] cache_dtype in blocks of dense rows that may lie anywhere: row j is row j % kMlaBlock of
  // blocks[j / kMlaBlock]. The rows of this call's tokens are already written.
  const std::byte* const* blocks;
  int64_t n_past;  // tokens before this call
};

enum class MlaForm : uint8_t {
  by_cost,   // of each sequence of the call
  by_block,  // expanded, but the tokens behind the last multiple of kMlaBlock positions by their own cost
  expanded,
  absorbed,
};

inline constexpr int64_t mla_blocks(int64_t rows) { return (rows + kMlaBlock - 1) / kMlaBlock; }

// The table of a cache whose rows all lie one after the other: blocks [mla_blocks(rows)].
inline void mla_dense_blocks(const void* cache, int64_t rows, int64_t row_bytes, const std::byte** blocks) {
  for (int64_t i = 0; i < mla_blocks(rows); ++i)
    blocks[i] = static_cast<const std::byte*>(cache) + i * kMlaBlock * row_bytes;
}

struct MlaArgs {
  ConstTensor q;     // [N, H, Dn + Dr] f32, token stride free
  ConstTensor kv_b;  // [H * (Dn + Dv), R] f32, bf16 or f16, dense
  ConstTensor
      seq_start;  // [B + 1] i32, packed offsets of this call's tokens: seq_start[0] == 0, ascending, seq_start[B] == N
  const MlaSequence* seqs;  // [B]
  DType cache_dtype;        // f32 or bf16
  int64_t R, Dn, Dr, Dv;
  Tensor out;   // [N, H, Dv] f32, token stride free
  float scale;  // usually (Dn + Dr)^-1/2
  MlaForm form = MlaForm::by_cost;
};

// Softmax in f32; bitwise causal; out_i does not depend on how the call's tokens are cut into calls except through the
// choice between the two ways: `expanded` and `absorbed` leave none, `by_block` one that does not know of cuts at
// multiples of kMlaBlock positions. Throws InvalidArgument naming the tensor.
Plan<MlaArgs> plan_mla(const MlaArgs& args, Isa isa = active_isa());
std::span<const Variant<MlaArgs>> mla_variants();

// The definition: expanded form, in double.
void mla_ref(const MlaArgs& args);

}  // namespace linnet::ops
