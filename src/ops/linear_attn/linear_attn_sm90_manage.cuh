// The preparing CTAs' roles in the KDA prefill: managing warps post chunks, workgroups write their records.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep.cuh"
#include "ops/linear_attn/linear_attn_sm90_schedule.cuh"

namespace linnet::ops::sm90 {

// Between a workgroup and its manager: two items at a time.
struct Desk {
  prep::Chunk chunk[2];
  Record* record[2];
  uint64_t posted[2];   // barriers: the chunk is known, its rows may be loaded
  uint64_t allowed[2];  // its record has a place
  uint64_t done[2];     // its record is written
};

__device__ __forceinline__ void init_desk(Desk& d) {
  for (int i = 0; i < 2; i++) {
    barrier_init(smem_address(&d.posted[i]), 1);
    barrier_init(smem_address(&d.allowed[i]), 1);
    barrier_init(smem_address(&d.done[i]), 1);
  }
}

// The chunk of a lane's step, and its record's entry among all of them; false where the step is a hole or beyond the lane's end.
__device__ __forceinline__ bool chunk_of(const KdaPrefillSm90& a, const Lanes& lanes, int lane, int step,
                                         prep::Chunk& c, int64_t& entry) {
  const SeqStart start{a.seq_start, a.seq_start_is_64};
  const int lo = lanes.first(lane), hi = lanes.first(lane + 1);
  const int mirrored = hi - 1 - step;  // in the right piece, counted from its other end
  if (mirrored < lo) return false;
  const Piece w = find_piece(start, a.n_sequences, lanes.n_slots, mirrored, lo, hi);
  const int position = w.first + w.end - 1 - mirrored, chunk = position - w.chain_first;
  entry = static_cast<int64_t>(position - w.head * lanes.n_slots) * a.n_heads + w.head;
  const int64_t left = w.length - static_cast<int64_t>(chunk) * kChunk;
  c.sequence = w.sequence;
  c.head = w.head;
  c.token = w.token + static_cast<int64_t>(chunk) * kChunk;
  c.n_valid = left < kChunk ? static_cast<int>(left) : kChunk;
  return left > 0;
}

// The managing warp of a workgroup (its first thread): takes items, posts those that are chunks one ahead of the work, and tells the
// scanners when a record is written. It never waits for room while it could still tell of a record: the room may depend on it.
__device__ __forceinline__ void manage(const KdaPrefillSm90& a, const Workspace& w, const Lanes& lanes, Desk& desk) {
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
    const int item = next, step = item / lanes.n_lanes, lane = item - step * lanes.n_lanes, slot = posted & 1;
    const bool end = step >= lanes.steps();
    prep::Chunk c;
    int64_t entry = 0;
    c.n_valid = 0;
    if (!end) {
      next = atomicAdd(w.next_item, 1);
      if (!chunk_of(a, lanes, lane, step, c, entry)) continue;
    }
    desk.chunk[slot] = c;
    barrier_arrive(smem_address(&desk.posted[slot]));
    if (!end) {
      int32_t* written = w.written + static_cast<int64_t>(lane) * lanes.steps() + step;
      if (w.flow == Flow::ring) {
        const int32_t* consumed = w.consumed + lane * kFlagLine;
        const auto has_room = [&] { return load_relaxed(consumed) > step - kRing; };
        if (!has_room()) {
          publish_until(posted);
          while (!has_room()) __nanosleep(200);
        }
        written = w.written + lane * kFlagLine + step % kRing;
        entry = static_cast<int64_t>(lane) * kRing + step % kRing;
      }
      flag[0] = slot ? flag[0] : written;
      flag[1] = slot ? written : flag[1];
      value[0] = slot ? value[0] : step + 1;
      value[1] = slot ? step + 1 : value[1];
      desk.record[slot] = w.records + entry;
      barrier_arrive(smem_address(&desk.allowed[slot]));
    }
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
    barrier_wait(smem_address(&desk.allowed[i & 1]), i >> 1 & 1);
    prep::compute<B>(a, desk.chunk[i & 1], desk.record[i & 1], smem, thread, barrier, [&] {
      barrier_wait(smem_address(&desk.posted[i + 1 & 1]), i + 1 >> 1 & 1);
      const prep::Chunk& next = desk.chunk[i + 1 & 1];
      if (next.n_valid > 0) prep::load<B>(a, next, smem, thread);
    });
    prep::workgroup_sync(barrier);
    if (thread == 0) barrier_arrive(smem_address(&desk.done[i & 1]));
  }
}

}  // namespace linnet::ops::sm90
