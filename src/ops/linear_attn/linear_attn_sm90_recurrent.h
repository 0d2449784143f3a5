// Plain recurrence of Kimi Delta Attention on Hopper, token after token: arguments and launch. All pointers are device memory.
// For what the prefill and the decode kernel do not take: any head widths, element types and states of the projections, one token or
// a few thousand. The recurrence is the one of linear_attn.h with Decay::per_channel and delta.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace linnet::ops {

enum class KdaType : int32_t { f32, f16, bf16 };

// What g holds: the natural log of the decay itself, or the raw gate of linear_attn_sm90.h.
enum class KdaRecurrentGate : int32_t { log_decay, softplus, lower_bound };

struct KdaRecurrentSm90 {
  const void* q;  // [N, Hk, K] type
  const void* k;
  const void* v;          // [N, H, V] type; value head h reads q and k of head h / (H / Hk)
  const void* g;          // [N, H, K] g_type
  const void* beta;       // [N, H] beta_type, or [N, H, V] with beta_per_value
  void* out;              // [N, H, V] type; must not alias an input
  const float* a_log;     // [H] or null: rate 1
  const float* dt_bias;   // [H, K] or null: 0. Both read only with a raw gate
  const void* seq_start;  // [B + 1] int32 or int64, ascending from 0; null: sequences of n_tokens each
  const void* state_in;   // [B, H, K, V] state_type, with state_v_first [B, H, V, K]; null: zero
  void* state_out;        // likewise, may be state_in; null: not written
  // With slots, state_in and state_out are pools of states state_stride elements apart: sequence b begins with that of
  // slots[b * slots_stride + n_accepted[b] - 1] (null: the first) and leaves the state after its token t at slots[b * slots_stride + t].
  // A sequence that begins with a negative slot is padding: nothing is read or written for it; a negative slot of a token is not written.
  const int32_t* slots;
  const int32_t* n_accepted;
  int64_t slots_stride, state_stride;
  int64_t n_tokens;  // of each sequence; read only without seq_start
  int32_t n_sequences, n_qk_heads, n_heads;
  int32_t k_dim, v_dim;  // multiples of 4, k_dim at most 256
  KdaType type, g_type, beta_type;
  KdaRecurrentGate gate;
  float scale, lower_bound;
  int32_t normalize;       // q, k <- x / sqrt(sum x^2 + 1e-6)
  int32_t beta_logits;     // beta <- beta_max sigmoid(beta)
  float beta_max;          // 1, or 2 where negative eigenvalues are wanted
  int32_t beta_per_value;  // a write strength for each value column
  int32_t state_v_first, seq_start_is_64;
  KdaType state_type;  // f32, or bf16: rounded to nearest even where a state is written, f32 inside a call
};

// Enqueues the recurrence. Graph-capturable, deterministic; a sequence's bits do not depend on the batch. Returns a cudaError_t:
// cudaErrorInvalidValue for widths, heads or types that it does not take, and for states not at multiples of 16 bytes.
int kda_recurrent_sm90(const KdaRecurrentSm90& args, CUstream_st* stream) noexcept;

}  // namespace linnet::ops
