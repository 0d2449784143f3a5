// What the two kernels of the plain recurrence on Hopper share: inputs of any type, gates, where states lie; and their launches.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_decode.cuh"
#include "ops/linear_attn/linear_attn_sm90_decode_state.cuh"
#include "ops/linear_attn/linear_attn_sm90_recurrent.h"

namespace linnet::ops::sm90 {

// Any widths: linear_attn_sm90_recurrent.cu. Square heads of 64 or 128 channels, whole heads a CTA: linear_attn_sm90_recurrent_heads.cu.
cudaError_t launch_recurrent_columns(const KdaRecurrentSm90& args, cudaStream_t stream);
cudaError_t launch_recurrent_heads(const KdaRecurrentSm90& args, cudaStream_t stream);

// An element as it lies in memory: converted where it is needed, so that no load waits for another.
__device__ __forceinline__ uint32_t load_raw(const void* p, KdaType type, int64_t at) {
  return type == KdaType::f32 ? static_cast<const uint32_t*>(p)[at] : static_cast<const uint16_t*>(p)[at];
}
__device__ __forceinline__ float value_of(uint32_t raw, KdaType type) {
  if (type == KdaType::f32) return __uint_as_float(raw);
  return type == KdaType::bf16 ? __uint_as_float(raw << 16) : unpack_half(raw).x;
}
__device__ __forceinline__ void store_one(void* p, KdaType type, int64_t at, float x) {
  if (type == KdaType::f32) static_cast<float*>(p)[at] = x;
  else if (type == KdaType::f16) static_cast<__half*>(p)[at] = __float2half_rn(x);
  else static_cast<__nv_bfloat16*>(p)[at] = __float2bfloat16_rn(x);
}

// exp and log1p, not their fast forms: slow channels add up over thousands of tokens.
__device__ __forceinline__ float decay_of(float g, float rate, float bias, const KdaRecurrentSm90& a) {
  if (a.gate == KdaRecurrentGate::log_decay) return expf(g);
  const float x = g + bias;
  if (a.gate == KdaRecurrentGate::lower_bound) return expf(a.lower_bound / (1.f + expf(-rate * x)));
  return expf(-rate * (fmaxf(x, 0.f) + log1pf(expf(-fabsf(x)))));
}
__device__ __forceinline__ float strength_of(float beta, const KdaRecurrentSm90& a) {
  return a.beta_logits ? a.beta_max / (1.f + expf(-beta)) : beta;
}

// Tokens of a sequence.
struct Span {
  int64_t begin, end;
};
__device__ __forceinline__ Span span_of(const KdaRecurrentSm90& a, int sequence) {
  const SeqStart start{a.seq_start, a.seq_start_is_64 != 0};
  if (a.seq_start) return {start[sequence], start[sequence + 1]};
  return {sequence * a.n_tokens, (sequence + 1) * a.n_tokens};
}

// One head's state in a pool that is addressed by slots.
template <class T>
__device__ __forceinline__ T* state_in_slot(T* pool, const KdaRecurrentSm90& a, int64_t slot, int head) {
  return pool + slot * a.state_stride + head * static_cast<int64_t>(a.k_dim) * a.v_dim;
}
// Without slots.
template <class T>
__device__ __forceinline__ T* state_of_sequence(T* states, const KdaRecurrentSm90& a, int sequence, int head) {
  return states + (static_cast<int64_t>(sequence) * a.n_heads + head) * a.k_dim * a.v_dim;
}
// First state of a sequence's head, or null: zero. Returns false for padding.
template <class T>
__device__ __forceinline__ bool first_state(const KdaRecurrentSm90& a, int sequence, int head, const T*& from) {
  from = static_cast<const T*>(a.state_in);
  if (a.slots) {
    const int first = a.n_accepted ? a.n_accepted[sequence] - 1 : 0;
    const int slot = a.slots[sequence * a.slots_stride + first];
    if (slot < 0) return false;
    if (from) from = state_in_slot(from, a, slot, head);
  } else if (from) {
    from = state_of_sequence(from, a, sequence, head);
  }
  return true;
}

// Sums v[0..n) over the 2 * bit neighbouring lanes; lane l of them returns the sum of v[l * n / (2 * bit)]. Each step halves what a lane holds.
template <int n, int bit>
__device__ __forceinline__ float lanes_sum(const float (&v)[n]) {
  const bool upper = threadIdx.x & bit;
  constexpr int half = n > 1 ? n / 2 : 1;
  float x[half];
#pragma unroll
  for (int i = 0; i < half; i++) {
    if constexpr (n > 1) x[i] = (upper ? v[i + half] : v[i]) + __shfl_xor_sync(~0u, upper ? v[i] : v[i + half], bit);
    else x[i] = v[i] + __shfl_xor_sync(~0u, v[i], bit);
  }
  if constexpr (bit > 1) return lanes_sum<half, bit / 2>(x);
  return x[0];
}

}  // namespace linnet::ops::sm90
