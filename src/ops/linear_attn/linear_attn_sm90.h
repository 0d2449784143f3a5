// Kimi Delta Attention on Hopper (sm_90a): arguments and launches of the prefill and decode kernels. All pointers are device memory.
// The recurrence is the one of linear_attn.h with Decay::per_channel and delta; here the kernels also do what the layer does
// around it, from what the projections and the convolution produce:
//   q, k <- x / sqrt(sum x^2 + 1e-6)                       L2 norm over the head
//   log decay <- -exp(a_log) softplus(z + dt_bias)         KdaGate::softplus
//              | lower_bound sigmoid(exp(a_log) (z + dt_bias))   KdaGate::lower_bound
//   beta <- sigmoid(beta logit)
// There are options for callers that do some of it themselves, and gates of a whole head (Gated DeltaNet).
// Story, numerics and measurements: docs/kernels/kda-sm90.md, kda-decode-sm90.md.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace linnet::ops {

constexpr int kKdaSm90Dim = 128;  // Dk = Dv
constexpr int kKdaSm90Chunk =
    64;  // tokens solved together; states handed over at multiples of it are bit-exact (whole chains)
constexpr int kKdaSm90ConvTaps = 4;

// Prefill alone knows the last three, but for head_softplus, which decode and verify know, too:
//   log_decay       z [N, H, 128] f32 is the natural log decay itself, at most 0 (-inf: the channel is forgotten)
//   head_softplus   z [N, H] raw, one number for all channels: log decay <- -exp(a_log) softplus(z + dt_bias), dt_bias [H]
//   head_log_decay  z [N, H] f32 is the natural log decay of all channels
enum class KdaGate : uint8_t { softplus, lower_bound, log_decay, head_softplus, head_log_decay };

enum class KdaInput : uint8_t { bf16, f16 };

// What both kernels need to turn raw projections into decay and write strength.
struct KdaGateArgs {
  const float* a_log;    // [H]; not read where z is a log decay, as dt_bias
  const float* dt_bias;  // [H, 128]
  KdaGate gate = KdaGate::softplus;
  float lower_bound = -5;  // read only with KdaGate::lower_bound
};

// How a pool holds states: f32, or bf16 rounded to nearest even where a sequence's state is written: once a call of prefill, inside which it is f32,
// after every token of decode, which then loses a decay within 2^-9 of 1. Decode and verify take keys first alone.
enum class KdaStateType : uint8_t { f32, bf16 };

struct KdaPrefillSm90 {
  const void* q;  // [N, H, 128] bf16 (as k, v, z, out), token stride below
  const void* k;
  const void* v;
  const void* z;         // raw decay gate
  const void* beta;      // [N, H] bf16 logits
  void* out;             // [N, H, 128] bf16; must not alias an input
  int64_t token_stride;  // elements between tokens of q, k, v, z and out; a multiple of 8, >= H * 128
  const void*
      seq_start;  // [B + 1] int32 or int64: seq_start[0] == 0, ascending, seq_start[B] == N; equal neighbours = empty
  bool seq_start_is_64;
  int n_sequences, n_heads;
  int64_t n_tokens;          // N, known to the host; the lengths are not
  void* state;               // pool [slots, H, 128 (Dk), 128 (Dv)] f32, or as state_type and state_v_first say
  const int32_t* state_in;   // [B] slots read before the first token; negative or null: zero state
  const int32_t* state_out;  // [B] slots written after the last token; negative or null: not written
  float scale;               // usually 128^-1/2; within [2^-10, 2^10]
  KdaGateArgs gate;
  // Options. As they stand: the layer's call, whose kernels have no code for them (but for out_stride).
  const float* beta_value = nullptr;  // [N, H] write strengths, 0 to 2, read instead of beta
  int64_t qk_stride = 0;              // elements between tokens of q and k, a multiple of 8; 0: token_stride
  int64_t z_stride = 0;               // of z, likewise (f32: of 4); not of a head's gate, which is dense, as beta
  int64_t out_stride = 0;             // of out, likewise
  int n_qk_heads = 0;                 // divides n_heads: head h has q and k of h / (n_heads / n_qk_heads); 0: n_heads
  bool normalize_qk = true;           // false: q and k as they are; norms at most 128, and of k about 1 to be stable
  KdaInput input = KdaInput::bf16;    // type of q, k, v, z, beta and out, but for those that are f32
  KdaStateType state_type = KdaStateType::f32;
  bool state_v_first = false;  // the pool is [slots, H, 128 (Dv), 128 (Dk)]
  // The state after every 64 tokens of a sequence and after its last one, or null: a pool of its own, f32 whatever state_type says, laid out
  // as state_v_first says, [seq_start[B] / 64 + B, H, 128, 128]. Tokens 64 i .. 64 i + 63 of sequence s have slot seq_start[s] / 64 + s + i;
  // slots that no tokens have are not written. It may be `state` of a later call (with KdaStateType::f32), which goes on with the bits of one
  // call. Must not overlap `state`.
  float* checkpoints = nullptr;
  // A call of few sequences x heads (about 12 and fewer, where they are long) is cut in time, exactly, for speed. Its bits are then a function of
  // the inputs, seq_start, n_tokens, n_sequences, n_heads and how states lie, on any device, but neither those of its sequences alone nor those of
  // two calls. true: never cut, which gives all sequences those bits. A call with checkpoints is never cut.
  bool whole_chains = false;
  // Dk = Dv, instead of each 128 above: a multiple of 8; 0: 128. A narrower head takes as long as one of 128, is never cut, and has no checkpoints.
  int head_dim = 0;
};

// Bytes of scratch for a call, 128-byte aligned memory. Follows no pointer of the arguments. The same for any whole_chains and layout of
// states. 66,048 B for each 64 tokens and head, at most about 2.25 GiB, and what is fixed.
size_t kda_prefill_sm90_workspace_bytes(const KdaPrefillSm90& args) noexcept;

// Enqueues the prefill. No host synchronisation, graph-capturable, deterministic. Returns a cudaError_t: cudaErrorInvalidValue for heads,
// strides, types or gates that do not fit, cudaErrorNotSupported for checkpoints of narrow heads.
int kda_prefill_sm90(const KdaPrefillSm90& args, void* workspace, CUstream_st* stream) noexcept;

// One token of every sequence, from the projections' outputs to the input of the output projection.
struct KdaDecodeSm90 {
  const void* qkv;           // [B, 3, H, 128] bf16: projections of the token, before the convolution (q, k, v)
  const void* z;             // [B, H, 128] bf16, raw decay gate
  const void* beta;          // [B, H] bf16 logits
  const void* out_gate;      // [B, H, 128] bf16, before its sigmoid
  const float* conv_weight;  // [3, H, 128, 4], tap 3 multiplies the current token
  const float* norm_weight;  // [128]
  void* out;                 // [B, H, 128] bf16
  void* conv_state;          // pool [slots, 3, H, 128, 3] bf16: the last three inputs, oldest first; updated
  void* state;               // pool [slots, H, 128 (Dk), 128 (Dv)] f32, or as below, 16-byte aligned; updated
  const int32_t* slot;       // [B]; negative: the sequence is padding, nothing is read or written for it
  int n_sequences, n_heads;
  float scale;
  float norm_eps = 1e-5f;
  KdaGateArgs gate;  // softplus, lower_bound or head_softplus
  bool pools_settled =
      false;  // the kernel before this one in the stream writes nothing that is read here but qkv, z, beta, out_gate
  // Options. As they stand: the layer's call, whose kernels have no code for them.
  KdaStateType state_type = KdaStateType::f32;
  bool state_v_first = false;  // true: not built
  bool out_gate_silu = false;  // the norm is multiplied by SiLU of out_gate, not by its sigmoid
  int head_dim = 0;            // Dk = Dv, instead of each 128 above: 64; 0: 128
};

// Enqueues the decode step. Graph-capturable, deterministic; a sequence's bits do not depend on the batch. It may start while the
// kernel before it ends: that kernel must not write slot (any other operation, or an earlier kernel, may). With pools_settled, as when
// that kernel is a projection, states, windows and weights are read before it has ended. Returns a cudaError_t: cudaErrorInvalidValue for
// a negative count, cudaErrorNotSupported for what is not built: other widths, values first, the other gates.
int kda_decode_sm90(const KdaDecodeSm90& args, CUstream_st* stream) noexcept;

constexpr int kKdaSm90VerifyTokens = 8;

// k tentative tokens of every sequence, as many decode steps would take them one after another: the same outputs in bits, but the pools stay
// as they are. kda_commit_sm90 then takes over as many of the tokens as were accepted.
struct KdaVerifySm90 {
  const void* qkv;           // [B, k, 3, H, 128] bf16
  const void* z;             // [B, k, H, 128] bf16
  const void* beta;          // [B, k, H] bf16 logits
  const void* out_gate;      // [B, k, H, 128] bf16
  const float* conv_weight;  // [3, H, 128, 4]
  const float* norm_weight;  // [128]
  void* out;                 // [B, k, H, 128] bf16
  const void* conv_state;    // pool as in KdaDecodeSm90, only read
  const void* state;         // pool as in KdaDecodeSm90, only read
  const int32_t* slot;       // [B]; negative: padding, nothing is read or written for it
  int n_sequences, n_heads;
  int n_tokens;   // k, 1 to kKdaSm90VerifyTokens
  void* pending;  // what commit needs: kda_verify_sm90_pending_bytes, 16-byte aligned
  float scale;
  float norm_eps = 1e-5f;
  KdaGateArgs gate;  // as in KdaDecodeSm90, and the options, too
  KdaStateType state_type = KdaStateType::f32;
  bool state_v_first = false;
  bool out_gate_silu = false;
  int head_dim = 0;
};

// The first n_accepted[b] tokens of the verify that filled pending become part of sequence b's state and windows: they are then equal in
// bits to those after as many decode steps. n_sequences, n_heads, n_tokens, slot and the pools' contents must be those of that verify.
struct KdaCommitSm90 {
  const int32_t* n_accepted;  // [B]; taken as 0 below 0, as k above k; 0 leaves the sequence as it is
  const void* pending;
  void* conv_state;
  void* state;
  const int32_t* slot;  // [B]; negative: padding
  int n_sequences, n_heads, n_tokens;
  bool settled =
      false;  // the kernel before this one in the stream writes nothing that is read here: it is the commit of another layer
  KdaStateType state_type = KdaStateType::f32;  // these as in the verify
  bool state_v_first = false;
  int head_dim = 0;
};

size_t kda_verify_sm90_pending_bytes(int n_sequences, int n_heads, int n_tokens, int head_dim = 0) noexcept;

// Enqueue. Graph-capturable, deterministic; a sequence's bits depend neither on the batch nor on k. The kernel before a verify must not
// write slot. Return a cudaError_t: cudaErrorInvalidValue for n_tokens outside its range or a negative count, cudaErrorNotSupported for what is not
// built, as decode.
int kda_verify_sm90(const KdaVerifySm90& args, CUstream_st* stream) noexcept;
int kda_commit_sm90(const KdaCommitSm90& args, CUstream_st* stream) noexcept;

}  // namespace linnet::ops
