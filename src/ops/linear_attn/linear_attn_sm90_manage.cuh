// The preparing CTAs' roles in the KDA prefill: managing warps post chunks, workgroups write their records.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep.cuh"
#include "ops/linear_attn/linear_attn_sm90_schedule.cuh"

namespace linnet::ops::sm90 {

// Between a workgroup and its manager: two items at a time.
struct Desk {
  prep::Chunk chunk[2];
  Record* record[2];
  uint64_t posted[2];  // barriers: the chunk and its record's place are known, its rows may be loaded
  uint64_t done[2];    // its record is written, by all warps
};

__device__ __forceinline__ void init_desk(Desk& d) {
  for (int i = 0; i < 2; i++) {
    barrier_init(smem_address(&d.posted[i]), 1);
    barrier_init(smem_address(&d.done[i]), prep::kWarps * kWarpArrivals);
  }
}

// The chunk of a lane's step; false where the step is a hole or beyond the lane's end.
__device__ __forceinline__ bool chunk_of(const KdaPrefillSm90& a, const Lanes& lanes, int lane, int step,
                                         prep::Chunk& c) {
  const SeqStart start{a.seq_start, a.seq_start_is_64};
  const int lo = lanes.first(lane), hi = lanes.first(lane + 1);
  const int mirrored = hi - 1 - step;  // in the right piece, counted from its other end
  if (mirrored < lo) return false;
  const Piece w = find_piece(start, a.n_sequences, lanes.n_slots, mirrored, lo, hi);
  const int chunk = w.first + w.end - 1 - mirrored - w.chain_first;
  const int64_t left = w.length - static_cast<int64_t>(chunk) * kChunk;
  c.sequence = w.sequence;
  c.head = w.head;
  c.token = w.token + static_cast<int64_t>(chunk) * kChunk;
  c.n_valid = left < kChunk ? static_cast<int>(left) : kChunk;
  return left > 0;
}

// The managing warp of a workgroup (its first thread): takes items, posts those that are chunks one ahead of the work, and tells the
// scanners when a record is written.
__device__ __forceinline__ void manage(const KdaPrefillSm90& a, const Workspace& w, const Lanes& lanes, Desk& desk) {
  const Window window = window_of(w, lanes);
  int next = atomicAdd(w.next_item, 1);
  int posted = 0, published = 0, value[2] = {};
  int32_t* flag[2] = {};
  const auto publish_until = [&](int end) {
    for (; published < end; published++) {
      const int i = published & 1;
      barrier_wait(smem_address(&desk.done[i]), published >> 1 & 1);
      __threadfence();
      store_relaxed(i ? flag[1] : flag[0], i ? value[1] : value[0]);
    }
  };
  while (true) {
    const int item = next, above = item / lanes.n_lanes, lane = item - above * lanes.n_lanes, slot = posted & 1;
    const int step = window.first + above;
    const bool end = step >= window.end;
    prep::Chunk c;
    c.n_valid = 0;
    if (!end) {
      next = atomicAdd(w.next_item, 1);
      if (!chunk_of(a, lanes, lane, step, c)) continue;
    }
    int32_t* const written = w.written + static_cast<int64_t>(lane) * lanes.steps() + step;
    flag[0] = slot ? flag[0] : written;
    flag[1] = slot ? written : flag[1];
    value[0] = slot ? value[0] : step + 1;
    value[1] = slot ? step + 1 : value[1];
    desk.chunk[slot] = c;
    desk.record[slot] = w.records + static_cast<int64_t>(lane) * window.size + above;
    barrier_arrive(smem_address(&desk.posted[slot]));
    publish_until(posted);
    posted++;
    if (end) return;
  }
}

// A workgroup: works on what is posted.
template <class B>
__device__ __forceinline__ void prepare(const KdaPrefillSm90& a, Desk& desk, prep::Smem& smem) {
  const int thread = static_cast<int>(threadIdx.x) & (prep::kThreads - 1),
            barrier = 2 + static_cast<int>(threadIdx.x) / prep::kThreads;
  barrier_wait(smem_address(&desk.posted[0]), 0);
  if (desk.chunk[0].n_valid > 0) prep::load<B>(a, desk.chunk[0], smem, thread);
  for (int i = 0; desk.chunk[i & 1].n_valid > 0; i++) {
    const auto wait_before = [&] {
      if (i > 0) barrier_wait(smem_address(&desk.done[(i - 1) & 1]), (i - 1) >> 1 & 1);
    };
    const auto load_next = [&] {
      barrier_wait(smem_address(&desk.posted[(i + 1) & 1]), (i + 1) >> 1 & 1);
      const prep::Chunk next = desk.chunk[(i + 1) & 1];
      if (next.n_valid > 0) prep::load<B>(a, next, smem, thread);
    };
    prep::compute<B>(a, desk.chunk[i & 1], desk.record[i & 1], smem, thread, barrier, i & 1, wait_before, load_next);
    barrier_arrive_warp(smem_address(&desk.done[i & 1]));
  }
}

}  // namespace linnet::ops::sm90
