// The scanning CTA's roles in the KDA prefill: carry the state over records and write the output.
//
// With K~ = k_in, Q~ = q_in, K^ = k_out, T = solve, A = attend, D = decay of a Record and V its values:
//   R = V - K~ S      U = T R      O = scale (Q~ S + A U)      S <- D S + K^T U
// CTA     all of a head: two warpgroups of consumers, 64 value columns each, read the same record in shared memory. Their chains do not
//         depend on each other, so one multiplies while the other packs, and neither needs the other but for the record's place.
//         A split lane has a CTA of one warpgroup for each half.
// Layout  all transposed, value columns as the 64 rows of the matrix instruction: the state stays in registers as an f32
//         accumulator, and every product's result, rounded to f16, is the left operand of the next one in the same threads: no
//         shared memory and no exchange between warps on the chain  S -> R -> U -> S.
// Roles   the consumers; a warp that loads records, part by part, by bulk copies; one that loads V by 16-byte copies; one that stores outputs.
// Smem    2 stages of 66,560 B record, 4 of 16,384 B of V, whose place the output takes before it leaves, 28 barriers: 198,880 B.
// Numeric state and sums f32; S, R, U rounded to f16, saturating at 65504. Deterministic: one order of sums.
// Traffic per (chunk, head): record 66,048 B from the L2, V and O 32,768 B.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_scan_roles.cuh"

namespace linnet::ops::sm90 {

template <int n>
__device__ __forceinline__ void to_operand(uint32_t (&a)[n / 2], const float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n / 2; i++) a[i] = pack_half_saturated(d[2 * i], d[2 * i + 1]);
}

// R = V^T of one warp: 16 value columns (rows here) x 64 tokens. Tokens beyond the sequence are zero.
template <class T>
__device__ __forceinline__ void load_values(float (&r)[32], uint32_t value) {
#pragma unroll
  for (int j = 0; j < 4; j++) {  // 16 tokens
    uint32_t v[4];               // (tokens 0-7, rows 0-7), (0-7, 8-15), (8-15, 0-7), (8-15, 8-15)
    ldmatrix_transposed(v, value + j * 16 * 128);
#pragma unroll
    for (int x = 0; x < 4; x++) {
      const float2 f = unpack<T>(v[x]);
      r[8 * j + 2 * x] = f.x;
      r[8 * j + 2 * x + 1] = f.y;
    }
  }
}

// O of one warp, scaled and rounded; then into the place of the values it has used, token-major again.
template <class T>
__device__ __forceinline__ void pack_output(uint32_t (&p)[16], const float (&o)[32], float scale) {
#pragma unroll
  for (int i = 0; i < 16; i++) p[i] = pack<T>(o[2 * i] * scale, o[2 * i + 1] * scale);
}
__device__ __forceinline__ void put_output(uint32_t fragment, const uint32_t (&p)[16]) {
#pragma unroll
  for (int j = 0; j < 4; j++)
    stmatrix_transposed(fragment + j * 16 * 128, p[4 * j], p[4 * j + 1], p[4 * j + 2], p[4 * j + 3]);
}

// This thread's 32 columns of D; decay: shared address of the first pair.
__device__ __forceinline__ void load_decay(float (&d)[32], uint32_t decay) {
#pragma unroll
  for (int j = 0; j < 16; j++) {
    const float2 x = load_shared_floats(decay + 32 * j);
    d[2 * j] = x.x;
    d[2 * j + 1] = x.y;
  }
}
// S = D S.
__device__ __forceinline__ void scale_columns(float (&s)[64], const float (&d)[32]) {
#pragma unroll
  for (int i = 0; i < 64; i++) s[i] *= d[2 * (i >> 2) + (i & 1)];
}

// D (+)= sign S operand^T, 128 key channels: the product with K~ or Q~ whose descriptor is b.
template <int kSign>
__device__ __forceinline__ void read_state(float (&d)[32], const uint32_t (&s)[32], uint32_t b, bool accumulate) {
#pragma unroll
  for (int kk = 0; kk < 8; kk++)
    wgmma_n64<kSign>(d, s + 4 * kk, b + (((kk >> 2) * kPanelBytes + (kk & 3) * 32) >> 4), accumulate || kk > 0);
  wgmma_commit();
}
// D (+)= x operand^T, 64 tokens: the product with T or A.
__device__ __forceinline__ void mix_tokens(float (&d)[32], const uint32_t (&x)[16], uint32_t b, bool accumulate) {
#pragma unroll
  for (int kk = 0; kk < 4; kk++) wgmma_n64<1>(d, x + 4 * kk, b + (kk * 32 >> 4), accumulate || kk > 0);
  wgmma_commit();
}

// The state of one piece into registers and out of them. s: S^T, rows g and g + 8 of the warp's 16 value columns, panel columns
// 8 j + t2, + 1. Between lanes it travels as the registers lie.
__device__ __forceinline__ void take_over(const ScanArgs& x, float (&s)[64]) {
  const int32_t* flag = x.w.handed_off + x.lane * kFlagLine + x.part;
  while (load_acquire(flag) == 0) {}
  const float* from =
      x.w.handoff + static_cast<int64_t>(x.lane) * kHandoffFloats + x.part * 64 * 128 + (threadIdx.x & 127);
#pragma unroll
  for (int i = 0; i < 64; i++) s[i] = __ldcg(from + i * 128);
}

__device__ __forceinline__ void hand_over(const ScanArgs& x, const float (&s)[64]) {
  const int thread = threadIdx.x & 127, next = x.lane + 1;
  float* to = x.w.handoff + static_cast<int64_t>(next) * kHandoffFloats + x.part * 64 * 128 + thread;
#pragma unroll
  for (int i = 0; i < 64; i++) to[i * 128] = s[i];
  sync_threads(1 + x.part, kConsumers);
  if (thread == 0) {
    __threadfence();
    store_release(x.w.handed_off + next * kFlagLine + x.part, 1);
  }
}

// A state that this lane or the one before has left, or not: then it is in the pool, or zero.
__device__ __forceinline__ bool go_on(const ScanArgs& x, const Piece& w, float (&s)[64]) {
  if (w.resumed) {
    const float* from =
        x.w.paused + static_cast<int64_t>(x.lane) * kHandoffFloats + x.part * 64 * 128 + (threadIdx.x & 127);
#pragma unroll
    for (int i = 0; i < 64; i++) s[i] = from[i * 128];
    return true;
  }
  if (w.first > w.chain_first) take_over(x, s);
  return w.first > w.chain_first;
}
// The chain goes on in the next window, or in the next lane, or not at all: then its state belongs into the pool.
__device__ __forceinline__ bool leave(const ScanArgs& x, const Piece& w, const float (&s)[64]) {
  if (w.paused) {
    float* to = x.w.paused + static_cast<int64_t>(x.lane) * kHandoffFloats + x.part * 64 * 128 + (threadIdx.x & 127);
#pragma unroll
    for (int i = 0; i < 64; i++) to[i * 128] = s[i];
    return true;
  }
  if (w.end < w.chain_end) hand_over(x, s);
  return w.end < w.chain_end;
}

__device__ __forceinline__ void load_state(const ScanArgs& x, const Piece& w, float (&s)[64]) {
  const int thread = threadIdx.x & 127, warp = thread >> 5, g = (thread & 31) >> 2, t2 = (thread & 3) * 2;
  if (go_on(x, w, s)) return;
  const int slot = x.a.state_in ? x.a.state_in[w.sequence] : -1;
  const float* in = static_cast<const float*>(x.a.state) +
                    (static_cast<int64_t>(slot) * x.a.n_heads + w.head) * kDim * kDim + 64 * x.part + 16 * warp + g;
#pragma unroll
  for (int j = 0; j < 16; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++)
      s[4 * j + i] = slot >= 0 ? in[key_channel(8 * j + t2 + (i & 1)) * kDim + 8 * (i >> 1)] : 0.f;
  }
}

__device__ __forceinline__ void store_state(const ScanArgs& x, const Piece& w, const float (&s)[64]) {
  const int thread = threadIdx.x & 127, warp = thread >> 5, g = (thread & 31) >> 2, t2 = (thread & 3) * 2;
  if (leave(x, w, s)) return;
  const int slot = x.a.state_out ? x.a.state_out[w.sequence] : -1;
  if (slot < 0) return;
  float* out = static_cast<float*>(x.a.state) + (static_cast<int64_t>(slot) * x.a.n_heads + w.head) * kDim * kDim +
               64 * x.part + 16 * warp + g;
#pragma unroll
  for (int j = 0; j < 16; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) out[key_channel(8 * j + t2 + (i & 1)) * kDim + 8 * (i >> 1)] = s[4 * j + i];
  }
}

// The consumers: the chain of products over every chunk of the lane. T: of values and outputs.
template <class T, class Scan>
__device__ __forceinline__ void consume(const Scan& x, uint32_t smem) {
  const int warp = (threadIdx.x & 127) >> 5, thread = threadIdx.x & 31, t2 = (thread & 3) * 2;
  // Each warp's 16 columns of V in a stage are read by it alone, so its outputs may take their place.
  const uint32_t fragment =
      value_piece(smem, 0, x.part, (thread & 7) + ((thread >> 4) << 3), 2 * warp + ((thread >> 3) & 1));
  float s[64];
  uint32_t s_operand[32], u_operand[16];
  float r[32], o[32];
  uint32_t output[16];  // of the chunk before, which leaves while products run
  int last = 0;         // its stage
  RecordCursor at;
  ValueCursor v;
  const auto put_last = [&] {
    put_output(fragment + last * kParts * kValueBytes, output);
    barrier_arrive_warp(written(smem, x.part, last));
  };
  pieces_of(x, [&](const Piece& w, int) {
    const int n_chunks = w.end_chunk() - w.begin_chunk();
    load_state(x, w, s);
    to_operand(s_operand, s);
    if (n_chunks > 0) {
      barrier_wait(values(smem, v.stage), v.phase);
      load_values<T>(r, fragment + v.stage * kParts * kValueBytes);
      barrier_wait(loaded(smem, 0, at.stage), at.phase);
    }
#pragma unroll 1
    for (int c = 0; c < n_chunks; c++) {  // no product stands under a condition: the compiler would wait for each one
      const uint32_t record = smem + at.stage * kRecordBytes;
      touch(r);
      wgmma_fence();
      read_state<-1>(r, s_operand, operand(record + offsetof(Record, k_in), 16), true);  // R = V - K~ S
      barrier_wait(loaded(smem, 1, at.stage), at.phase);
      touch(o);
      wgmma_fence();
      read_state<1>(o, s_operand, operand(record + offsetof(Record, q_in), 16), false);  // O = Q~ S
      if (c > 0) put_last();
      float decay[32];
      load_decay(decay, record + t2 * 4 + static_cast<uint32_t>(offsetof(Record, decay)));
      wgmma_wait<1>();
      touch(r);
      barrier_arrive_warp(read_by_all(smem, 0, at.stage));
      uint32_t r_operand[16];
      to_operand(r_operand, r);
      float u[32];
      wgmma_fence();
      mix_tokens(u, r_operand, operand(record + offsetof(Record, solve), 16), false);  // U = T R
      scale_columns(s, decay);
      wgmma_wait<0>();
      touch(u);
      touch(o);
      barrier_arrive_warp(read_by_all(smem, 1, at.stage));
      to_operand(u_operand, u);
      barrier_wait(loaded(smem, 2, at.stage), at.phase);
      touch(s);
      wgmma_fence();
#pragma unroll
      for (int kk = 0; kk < 4; kk++)  // S += K^T U
        wgmma_n128_transposed(s, u_operand + 4 * kk,
                              operand(record + offsetof(Record, k_out) + kk * 2048, kPanelBytes));
      wgmma_commit();
      mix_tokens(o, u_operand, operand(record + offsetof(Record, attend), 16), true);  // O += A U
      const int record_stage = at.stage;
      last = v.stage;
      v.advance();
      at.advance();
      if (c + 1 < n_chunks) {
        barrier_wait(values(smem, v.stage), v.phase);
        barrier_wait(loaded(smem, 0, at.stage), at.phase);
      }
      // After the last chunk the values it began with, never used: of its own place, into which nobody copies yet.
      load_values<T>(r, fragment + (c + 1 < n_chunks ? v.stage : last) * kParts * kValueBytes);
      wgmma_wait<1>();
      touch(s);
      to_operand(s_operand, s);
      if constexpr (Scan::kCheckpoints) put_checkpoint(x, w, w.begin_chunk() + c, s);
      wgmma_wait<0>();
      touch(o);
      barrier_arrive_warp(read_by_all(smem, 2, record_stage));
      pack_output<T>(output, o, x.a.scale);
    }
    if (n_chunks > 0) put_last();
    store_state(x, w, s);
  });
}

}  // namespace linnet::ops::sm90
