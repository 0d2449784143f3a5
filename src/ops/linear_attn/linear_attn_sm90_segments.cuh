// The exact segment scan of the KDA prefill: chains cut in time, for calls with fewer chains than the GPU has places for.
//
// A run of chunks maps the entering state S to M S + S0: M is the scan of its records from the identity with no values, S0 from zero with
// its values. Lanes own positions as in linear_attn_sm90_schedule.cuh, but here a chain may go through any number of them: its part in one lane
// is a segment.
//   maps      of each segment that its chain goes on behind: M and S0; of a chain's first, the state itself, from the pool. The scan's own
//             roles without outputs: M's columns are as independent as value columns
//   chain     the states that enter the segments, in order: S_(j+1) = M_j S_j + S0_j, f32
//   segments  the ordinary scan of every lane, no lane waiting for another
// Records are prepared once, in turn. Workspace: states and maps [lanes, 128 keys, 128 columns] f32.
// Bits   depend on where lanes begin, that is on seq_start, n_tokens, n_sequences and n_heads, on nothing else (the number of lanes does
//        not come from the device). A sequence's bits then depend on its batch, and a call's are not those of two calls.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_states.cuh"

namespace linnet::ops::sm90 {

constexpr int kStateFloats = kDim * kDim;

struct SegmentSpace {
  float* entering;  // by lane: the state at its first position, where a chain goes on there
  float*
      initial;  // by lane: of a chain that begins and does not end in it; its slot in the pool may be that of its final state
  float* maps;  // by lane: M
};

// The map of one lane's last segment, or its leaving state.
struct MapScan : ScanArgs {
  SegmentSpace space;
  Piece piece;
  bool of_identity;  // M, else S0
  static constexpr bool kOutputs = false;
};

struct SegmentScan : ScanArgs {
  SegmentSpace space;
};

__device__ __forceinline__ StateView matrix_of_lane(const ScanArgs& x, float* matrices, int lane) {
  return view_of(x, matrices + static_cast<int64_t>(lane) * kStateFloats, false, false);
}

__device__ __forceinline__ bool has_values(const MapScan& s) { return !s.of_identity; }

template <class F>
__device__ __forceinline__ void pieces_of(const MapScan& s, F f) {
  f(s.piece, 0);
}

__device__ __forceinline__ void prefetch_state(const MapScan& s, const Piece& w) {
  if (!s.of_identity) prefetch_pool(s, w);
}

__device__ __forceinline__ void load_state(const MapScan& x, const Piece& w, float (&s)[64]) {
  const int thread = threadIdx.x & 127, warp = thread >> 5, g = (thread & 31) >> 2, t2 = (thread & 3) * 2;
  if (w.first == w.chain_first) {
    read_pool(x, w, s);
    write_view(matrix_of_lane(x, x.space.initial, x.lane), s);
    return;
  }
#pragma unroll
  for (int j = 0; j < 16; j++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int key = key_channel(8 * j + t2 + (i & 1)), column = 64 * x.part + 16 * warp + g + 8 * (i >> 1);
      s[4 * j + i] = x.of_identity && key == column ? 1.f : 0.f;
    }
  }
}

__device__ __forceinline__ void store_state(const MapScan& x, const Piece&, const float (&s)[64]) {
  write_view(x.of_identity ? matrix_of_lane(x, x.space.maps, x.lane) : matrix_of_lane(x, x.space.entering, x.lane + 1),
             s);
}

__device__ __forceinline__ void prefetch_state(const SegmentScan& s, const Piece& w) {
  if (w.end == w.chain_end) prefetch_pool(s, w);
}

__device__ __forceinline__ void load_state(const SegmentScan& x, const Piece& w, float (&s)[64]) {
  if (w.first > w.chain_first) read_view(matrix_of_lane(x, x.space.entering, x.lane), s);
  else if (w.end < w.chain_end) read_view(matrix_of_lane(x, x.space.initial, x.lane), s);
  else read_pool(x, w, s);
}

__device__ __forceinline__ void store_state(const SegmentScan& x, const Piece& w, const float (&s)[64]) {
  if (w.end == w.chain_end) write_pool(x, w, s);
}

// The consumers of a map: consume without its outputs. A stage of values is free once it is in registers.
template <class T>
__device__ __forceinline__ void consume_map(const MapScan& x, uint32_t smem) {
  const int warp = (threadIdx.x & 127) >> 5, thread = threadIdx.x & 31, t2 = (thread & 3) * 2;
  const uint32_t fragment =
      value_piece(smem, 0, x.part, (thread & 7) + ((thread >> 4) << 3), 2 * warp + ((thread >> 3) & 1));
  const int n_chunks = x.piece.end_chunk() - x.piece.begin_chunk();  // at least 1: the chain goes on
  float s[64], r[32];
  uint32_t s_operand[32], u_operand[16];
  RecordCursor at;
  ValueCursor v;
  load_state(x, x.piece, s);
  to_operand(s_operand, s);
  barrier_wait(values(smem, v.stage), v.phase);
  load_values<T>(r, fragment);
#pragma unroll 1
  for (int c = 0; c < n_chunks; c++) {  // no product stands under a condition: the compiler would wait for each one
    const uint32_t record = smem + at.stage * kRecordBytes;
    barrier_wait(loaded(smem, 0, at.stage), at.phase);
    touch(r);
    wgmma_fence();
    read_state<-1>(r, s_operand, operand(record + offsetof(Record, k_in), 16), true);  // R = V - K~ S
    barrier_arrive_warp(written(smem, x.part, v.stage));
    barrier_wait(loaded(smem, 1, at.stage), at.phase);
    float decay[32];
    load_decay(decay, record + t2 * 4 + static_cast<uint32_t>(offsetof(Record, decay)));
    wgmma_wait<0>();
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
    barrier_arrive_warp(read_by_all(smem, 1, at.stage));
    to_operand(u_operand, u);
    barrier_wait(loaded(smem, 2, at.stage), at.phase);
    touch(s);
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 4; kk++)  // S += K^T U
      wgmma_n128_transposed(s, u_operand + 4 * kk, operand(record + offsetof(Record, k_out) + kk * 2048, kPanelBytes));
    wgmma_commit();
    const int record_stage = at.stage;
    v.advance();
    at.advance();
    if (c + 1 < n_chunks) barrier_wait(values(smem, v.stage), v.phase);
    load_values<T>(r, fragment + v.stage * kParts * kValueBytes);  // after the last chunk: leftovers, never used
    wgmma_wait<0>();
    touch(s);
    to_operand(s_operand, s);
    barrier_arrive_warp(read_by_all(smem, 2, record_stage));
  }
  store_state(x, x.piece, s);
}

}  // namespace linnet::ops::sm90
