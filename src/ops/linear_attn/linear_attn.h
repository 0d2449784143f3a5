// The recurrent core of every linear-attention mixer here: contract of the op. Definition: linear_attn_ref.cpp.
// Prose, chunk algebra, table of variants, floors: README.md.
#pragma once

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

// Per head, S is the state [Dk, Dv]. For each token t:
//   S'  = decay_t * S_{t-1}                               forget (rows of S are key channels)
//   u_t = beta_t * (v_t - [delta] S'^T k_t)               what to write; delta: the error of what S' already predicts
//   S_t = S' + k_t u_t^T
//   o_t = scale * S_t^T q_t                               read after the update
// Source: Kimi Linear, arXiv:2510.26692, eq. 1; the table of settings in docs/architecture.md.
enum class Decay : uint8_t {
  none,         // 1                                  linear attention, DeltaNet
  per_head,     // exp(log_decay[h])                  RetNet, Lightning Attention
  per_token,    // exp(log_decay[n, h])               Mamba-2, Gated DeltaNet
  per_channel,  // exp(log_decay[n, h, d])            GLA, KDA
};

// How tokens are computed: equal in exact arithmetic, not in bits.
enum class LinearAttnForm : uint8_t {
  by_length,  // in chunks of kLinearAttnChunk from the call's first token on; what is left is stepped when it is short
  chunks,  // in chunks that end at multiples of kLinearAttnChunk of the sequence's positions, also a chunk of few tokens
  steps,   // token by token
};

struct LinearAttnArgs {
  ConstTensor q;  // [N, Hk, Dk] f32, token stride free; normalised by the caller if the mixer normalises
  ConstTensor k;  // [N, Hk, Dk] f32, token stride free
  ConstTensor v;  // [N, H, Dv] f32, token stride free. H is a multiple of Hk: value head h reads key head h / (H / Hk)
  ConstTensor log_decay;  // absent, [H], [N, H] or [N, H, Dk] f32 as `decay` says; natural log, <= 0, -inf allowed
  ConstTensor beta;       // [N, H] f32, write strength after its activation; absent = 1
  ConstTensor seq_start;  // [B + 1] i32, packed offsets: seq_start[0] == 0, ascending, seq_start[B] == N; equal = empty
  float* const* state;  // [B] pointers to [H, Dk, Dv] f32: in: S before, out: S after. Untouched for an empty sequence
  Tensor out;           // [N, H, Dv] f32, token stride free; must not alias an input
  float scale = 1;      // usually Dk^-1/2
  Decay decay = Decay::per_channel;
  bool delta = true;
  LinearAttnForm form = LinearAttnForm::by_length;
  const int64_t* n_past = nullptr;  // [B] tokens before this call, read by the form `chunks` only; null: none
};

// Any Dk, Dv >= 1, any decay down to log_decay = -inf: results stay finite and accurate. Outputs before token t do not
// depend, in any bit, on token t. A sequence cut at a multiple of kLinearAttnChunk tokens and continued gives the same
// bits as in one piece; with the form `steps`, cut anywhere. Throws InvalidArgument naming the tensor, Unsupported with the reasons.
Plan<LinearAttnArgs> plan_linear_attn(const LinearAttnArgs& args, Isa isa = active_isa());
std::span<const Variant<LinearAttnArgs>> linear_attn_variants();

constexpr int64_t kLinearAttnChunk = 64;

// By length, a sequence runs in chunks. What is left after its last full chunk is stepped token by token when it has at most this
// many tokens: so a short sequence is stepped, and a cut at a chunk boundary changes nothing.
constexpr int64_t kLinearAttnStepTokens = 8;

// The definition: token by token, in double.
void linear_attn_ref(const LinearAttnArgs& args);

}  // namespace linnet::ops
