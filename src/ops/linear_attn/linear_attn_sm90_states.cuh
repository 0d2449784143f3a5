// States of the KDA prefill in any layout of the pool, and checkpoints: a scan for what ScanArgs (f32, keys first) does not cover.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_scan.cuh"

namespace linnet::ops::sm90 {

template <bool kWithCheckpoints, bool kOfNarrow = false>
struct StateScan : ScanArgs {
  static constexpr bool kCheckpoints = kWithCheckpoints, kNarrow = kOfNarrow;
};

// A state in memory as one consumer thread sees it: where its first element lies, how far apart keys and values are, and how many of each it
// has from there on (of a narrow head it may have none).
struct StateView {
  char* at;
  int key_bytes, value_bytes, keys, values;
  bool is_bf16;
  // Of register i of the accumulator (see load_state): key channel 8 (i / 4) + i & 1 of the thread's first, value column 0 or 8.
  __device__ __forceinline__ char* element(int i) const {
    return at + (8 * (i >> 2) + (i & 1)) * key_bytes + 8 * ((i >> 1) & 1) * value_bytes;
  }
  __device__ __forceinline__ bool has(int i) const {
    return 8 * (i >> 2) + (i & 1) < keys && 8 * ((i >> 1) & 1) < values;
  }
};

__device__ __forceinline__ int64_t state_bytes(KdaStateType type, int dim) {
  return dim * dim * (type == KdaStateType::bf16 ? 2 : 4);
}

// A state of [dim, dim] elements, keys or values first.
__device__ __forceinline__ StateView view_of(const ScanArgs& x, void* state, bool is_bf16, bool v_first,
                                             int dim = kDim) {
  const int thread = threadIdx.x & 127, warp = thread >> 5, g = (thread & 31) >> 2, t = thread & 3;
  const int one = is_bf16 ? 2 : 4;
  StateView v;
  v.is_bf16 = is_bf16;
  v.key_bytes = v_first ? one : dim * one;
  v.value_bytes = v_first ? dim * one : one;
  const int key = key_channel(2 * t), value = 64 * x.part + 16 * warp + g;
  v.at = static_cast<char*>(state) + key * v.key_bytes + value * v.value_bytes;
  v.keys = dim - key, v.values = dim - value;
  return v;
}

template <class Scan>
__device__ __forceinline__ StateView state_view(const Scan& x, void* pool, KdaStateType type, int64_t slot, int head) {
  char* const state = static_cast<char*>(pool) + (slot * x.a.n_heads + head) * state_bytes(type, head_dim(x));
  return view_of(x, state, type == KdaStateType::bf16, x.a.state_v_first, head_dim(x));
}

template <bool kNarrow = false>
__device__ __forceinline__ void read_view(const StateView& v, float (&s)[64]) {
  if (v.is_bf16) {
#pragma unroll
    for (int i = 0; i < 64; i++)
      s[i] = !kNarrow || v.has(i) ? __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(v.element(i))) : 0.f;
  } else {
#pragma unroll
    for (int i = 0; i < 64; i++) s[i] = !kNarrow || v.has(i) ? *reinterpret_cast<const float*>(v.element(i)) : 0.f;
  }
}

template <bool kNarrow = false>
__device__ __forceinline__ void write_view(const StateView& v, const float (&s)[64]) {
  if (v.is_bf16) {
#pragma unroll
    for (int i = 0; i < 64; i++)
      if (!kNarrow || v.has(i)) *reinterpret_cast<__nv_bfloat16*>(v.element(i)) = __float2bfloat16_rn(s[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 64; i++)
      if (!kNarrow || v.has(i)) *reinterpret_cast<float*>(v.element(i)) = s[i];
  }
}

// The sequence's own state in the pool: read, zero without a slot; written, not at all without a slot.
template <class Scan>
__device__ __forceinline__ void read_pool(const Scan& x, const Piece& w, float (&s)[64]) {
  const int slot = x.a.state_in ? x.a.state_in[w.sequence] : -1;
  if (slot >= 0) {
    read_view<Scan::kNarrow>(state_view(x, x.a.state, x.a.state_type, slot, w.head), s);
    return;
  }
#pragma unroll
  for (int i = 0; i < 64; i++) s[i] = 0.f;
}
template <class Scan>
__device__ __forceinline__ void write_pool(const Scan& x, const Piece& w, const float (&s)[64]) {
  const int slot = x.a.state_out ? x.a.state_out[w.sequence] : -1;
  if (slot >= 0) write_view<Scan::kNarrow>(state_view(x, x.a.state, x.a.state_type, slot, w.head), s);
}

template <bool kWithCheckpoints, bool kOfNarrow>
__device__ __forceinline__ void load_state(const StateScan<kWithCheckpoints, kOfNarrow>& x, const Piece& w,
                                           float (&s)[64]) {
  if (!go_on(x, w, s)) read_pool(x, w, s);
}
template <bool kWithCheckpoints, bool kOfNarrow>
__device__ __forceinline__ void store_state(const StateScan<kWithCheckpoints, kOfNarrow>& x, const Piece& w,
                                            const float (&s)[64]) {
  if (!leave(x, w, s)) write_pool(x, w, s);
}

template <class Scan>
__device__ __forceinline__ void prefetch_pool(const Scan& s, const Piece& w) {
  const int slot = w.first == w.chain_first && s.a.state_in ? s.a.state_in[w.sequence] : -1;
  if (slot < 0) return;
  const int64_t whole = state_bytes(s.a.state_type, head_dim(s));
  const char* const at =
      static_cast<const char*>(s.a.state) + (static_cast<int64_t>(slot) * s.a.n_heads + w.head) * whole;
  for (int64_t i = 128 * (threadIdx.x & 31); i < whole; i += 128 * 32) prefetch_line(at + i);
}
template <bool kWithCheckpoints, bool kOfNarrow>
__device__ __forceinline__ void prefetch_state(const StateScan<kWithCheckpoints, kOfNarrow>& s, const Piece& w) {
  prefetch_pool(s, w);
}

// The state after chunk c of the piece's sequence, always f32: with a type chosen here, by a branch or by stores that are off, ptxas takes the
// loop's accumulators to be read between products and waits for each one. For the same reason heads are of 128.
__device__ __forceinline__ void put_checkpoint(const ScanArgs& x, const Piece& w, int c, const float (&s)[64]) {
  const int64_t slot = w.chain_first - w.head * x.lanes.n_slots + c;
  const StateView v = state_view(x, x.a.checkpoints, KdaStateType::f32, slot, w.head);
#pragma unroll
  for (int i = 0; i < 64; i++) store_float(v.element(i), s[i]);
}

}  // namespace linnet::ops::sm90
