// States of the KDA prefill in any layout of the pool, and checkpoints: a scan for what ScanArgs (f32, keys first) does not cover.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_scan.cuh"

namespace linnet::ops::sm90 {

template <bool kWithCheckpoints>
struct StateScan : ScanArgs {
  static constexpr bool kCheckpoints = kWithCheckpoints;
};

// A state in a pool as one consumer thread sees it: where its first element lies, and how far apart keys and values are.
struct StateView {
  char* at;
  int key_bytes, value_bytes;
  bool is_bf16;
  // Of register i of the accumulator (see load_state): key channel 8 (i / 4) + i & 1 of the thread's first, value column 0 or 8.
  __device__ __forceinline__ char* element(int i) const {
    return at + (8 * (i >> 2) + (i & 1)) * key_bytes + 8 * ((i >> 1) & 1) * value_bytes;
  }
};

__device__ __forceinline__ int64_t state_bytes(KdaStateType type) {
  return kDim * kDim * (type == KdaStateType::bf16 ? 2 : 4);
}

// A state of [128, 128] elements, keys or values first.
__device__ __forceinline__ StateView view_of(const ScanArgs& x, void* state, bool is_bf16, bool v_first) {
  const int thread = threadIdx.x & 127, warp = thread >> 5, g = (thread & 31) >> 2, t = thread & 3;
  const int one = is_bf16 ? 2 : 4;
  StateView v;
  v.is_bf16 = is_bf16;
  v.key_bytes = v_first ? one : kDim * one;
  v.value_bytes = v_first ? kDim * one : one;
  v.at = static_cast<char*>(state) + key_channel(2 * t) * v.key_bytes + (64 * x.part + 16 * warp + g) * v.value_bytes;
  return v;
}

__device__ __forceinline__ StateView state_view(const ScanArgs& x, void* pool, KdaStateType type, int64_t slot,
                                                int head) {
  char* const state = static_cast<char*>(pool) + (slot * x.a.n_heads + head) * state_bytes(type);
  return view_of(x, state, type == KdaStateType::bf16, x.a.state_v_first);
}

__device__ __forceinline__ void read_view(const StateView& v, float (&s)[64]) {
  if (v.is_bf16) {
#pragma unroll
    for (int i = 0; i < 64; i++) s[i] = __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(v.element(i)));
  } else {
#pragma unroll
    for (int i = 0; i < 64; i++) s[i] = *reinterpret_cast<const float*>(v.element(i));
  }
}

__device__ __forceinline__ void write_view(const StateView& v, const float (&s)[64]) {
  if (v.is_bf16) {
#pragma unroll
    for (int i = 0; i < 64; i++) *reinterpret_cast<__nv_bfloat16*>(v.element(i)) = __float2bfloat16_rn(s[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 64; i++) *reinterpret_cast<float*>(v.element(i)) = s[i];
  }
}

// The sequence's own state in the pool: read, zero without a slot; written, not at all without a slot.
__device__ __forceinline__ void read_pool(const ScanArgs& x, const Piece& w, float (&s)[64]) {
  const int slot = x.a.state_in ? x.a.state_in[w.sequence] : -1;
  if (slot >= 0) {
    read_view(state_view(x, x.a.state, x.a.state_type, slot, w.head), s);
    return;
  }
#pragma unroll
  for (int i = 0; i < 64; i++) s[i] = 0.f;
}
__device__ __forceinline__ void write_pool(const ScanArgs& x, const Piece& w, const float (&s)[64]) {
  const int slot = x.a.state_out ? x.a.state_out[w.sequence] : -1;
  if (slot >= 0) write_view(state_view(x, x.a.state, x.a.state_type, slot, w.head), s);
}

template <bool kWithCheckpoints>
__device__ __forceinline__ void load_state(const StateScan<kWithCheckpoints>& x, const Piece& w, float (&s)[64]) {
  if (!go_on(x, w, s)) read_pool(x, w, s);
}
template <bool kWithCheckpoints>
__device__ __forceinline__ void store_state(const StateScan<kWithCheckpoints>& x, const Piece& w,
                                            const float (&s)[64]) {
  if (!leave(x, w, s)) write_pool(x, w, s);
}

__device__ __forceinline__ void prefetch_pool(const ScanArgs& s, const Piece& w) {
  const int slot = w.first == w.chain_first && s.a.state_in ? s.a.state_in[w.sequence] : -1;
  if (slot < 0) return;
  const int64_t whole = state_bytes(s.a.state_type);
  const char* const at =
      static_cast<const char*>(s.a.state) + (static_cast<int64_t>(slot) * s.a.n_heads + w.head) * whole;
  for (int64_t i = 128 * (threadIdx.x & 31); i < whole; i += 128 * 32) prefetch_line(at + i);
}
template <bool kWithCheckpoints>
__device__ __forceinline__ void prefetch_state(const StateScan<kWithCheckpoints>& s, const Piece& w) {
  prefetch_pool(s, w);
}

// The state after chunk c of the piece's sequence, always f32: with a type chosen here, by a branch or by stores that are off, ptxas takes the
// loop's accumulators to be read between products and waits for each one.
__device__ __forceinline__ void put_checkpoint(const ScanArgs& x, const Piece& w, int c, const float (&s)[64]) {
  const int64_t slot = w.chain_first - w.head * x.lanes.n_slots + c;
  const StateView v = state_view(x, x.a.checkpoints, KdaStateType::f32, slot, w.head);
#pragma unroll
  for (int i = 0; i < 64; i++) store_float(v.element(i), s[i]);
}

}  // namespace linnet::ops::sm90
