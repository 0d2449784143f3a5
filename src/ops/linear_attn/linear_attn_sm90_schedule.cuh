// Who does what when in the KDA prefill on Hopper.
//
// Positions  A head owns n_slots record slots, those of its sequences one after the other (first_slot); head h's slot x is position
//            h * n_slots + x. A chain is the slots of one (sequence, head); the last may be empty (a hole).
// Lanes      Each scanning CTA is a lane of time. Lane j owns the j-th part of all positions, equal to within one. It takes the
//            chains of its part from the last to the first, each chain's slots ascending. So a chain cut by a boundary begins at the
//            start of one lane and ends at the end of the next one: as no chain is longer than a lane, the first piece is done before
//            the second is due (McNaughton's wrap-around rule), and any number of lanes is balanced whatever the lengths.
//            The state passes between the pieces in f32, so results do not depend on the number of lanes, in bits.
// Beside     two grids at once: persistent CTAs prepare, on all SMs but as many as there are lanes, and the lanes scan on those. Prep takes
//            (step, lane) pairs in order of steps; written[lane][step] = step + 1 once its record is written. Prep waits for nothing, and the
//            lanes are scheduled when all of it runs (programmatic launch): so whatever else occupies the GPU, prep ends, and then the lanes.
// Split      (few chains) as beside, but a lane is two CTAs, one for each half of the value columns, which need nothing of each other: a step
//            takes less time, where the longest chain is what takes time.
// Windows    Where the records of all chunks would take too much memory, all lanes' steps are cut into equal windows, a pair of grids each, one
//            after the other; a lane's state waits in memory between them, in f32.
// Cut        (very few chains) chains are cut in time as well, for an exact segment scan: linear_attn_sm90_segments.cuh.
// In turn    (many chains) prep writes all records, slot by slot, then every CTA scans: nothing waits for a flag of a record.
#pragma once

#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90 {

constexpr int kParts = 2;       // warpgroups that scan a chain: halves of the value columns
constexpr int kFlagLine = 32;   // flags of different lanes lie in different lines of the L2
constexpr int kMaxLanes = 132;  // the SMs of the largest Hopper GPU

// Where records are, and what says that they are written.
enum class Flow { in_turn, beside };

struct Workspace {
  Record* records;  // in turn: [n_slots, n_heads]; beside: [n_lanes, steps of a window]
  Flow flow;
  int window, n_windows;  // this one, of all
  float* handoff;         // [n_lanes, kParts, 64, 128]: lane j's entry is the state at its first position
  float* paused;          // likewise: lane j's state between windows
  int32_t* next_item;     // [1]
  int32_t* handed_off;    // [n_lanes, kFlagLine], kParts used
  int32_t* written;       // beside: [n_lanes, steps]
};
constexpr int kHandoffFloats = kParts * 64 * 128;
constexpr int64_t kFlagInts = kFlagLine * (1 + kMaxLanes);  // and, beside, those of the steps
inline int64_t step_flags(int64_t n_positions) { return (n_positions + kMaxLanes + 63) / 64 * 64; }
constexpr size_t kHandoffBytes = static_cast<size_t>(kMaxLanes) * kHandoffFloats * sizeof(float);

// Cut (linear_attn_sm90_segments.cuh): behind the records, for each lane the state of a chain that begins in it and the map of its segment.
constexpr int kSegmentLanes = 64;  // at most: two CTAs each, for the maps, nearly fill an H100 or H200
constexpr size_t kSegmentBytes = 2 * static_cast<size_t>(kSegmentLanes) * kDim * kDim * sizeof(float);

constexpr size_t kFixedBytes = 2 * kHandoffBytes + kFlagInts * sizeof(int32_t);

inline Workspace workspace_at(void* p, Flow flow, int64_t n_positions, int n_windows) {
  char* const at = static_cast<char*>(p);
  Workspace w;
  w.handoff = reinterpret_cast<float*>(at);
  w.paused = reinterpret_cast<float*>(at + kHandoffBytes);
  w.next_item = reinterpret_cast<int32_t*>(at + 2 * kHandoffBytes);
  w.handed_off = w.next_item + kFlagLine;
  w.written = w.handed_off + kMaxLanes * kFlagLine;
  w.records = reinterpret_cast<Record*>(at + kFixedBytes + (flow == Flow::beside ? step_flags(n_positions) * 4 : 0));
  w.flow = flow;
  w.window = 0;
  w.n_windows = n_windows;
  return w;
}

struct Lanes {
  int n_lanes, n_slots, n_positions;
  __device__ __forceinline__ int first(int lane) const {
    return static_cast<int>(static_cast<int64_t>(n_positions) * lane / n_lanes);
  }
  __device__ __forceinline__ int steps() const { return (n_positions + n_lanes - 1) / n_lanes; }  // of the longest lane
};

// The steps of a window: [first, end). Each of the n_windows has room for `size`.
struct Window {
  int size, first, end;
};
__device__ __forceinline__ Window window_of(const Workspace& w, const Lanes& lanes) {
  const int steps = lanes.steps(), size = (steps + w.n_windows - 1) / w.n_windows, first = w.window * size;
  return {size, first, min(first + size, steps)};
}

// A piece of a chain that one lane carries.
struct Piece {
  int head, sequence;
  int64_t token;    // first of the sequence
  int64_t length;   // of the sequence
  int chain_first;  // position of the chain's first slot
  int chain_end;
  int first, end;                        // positions
  bool resumed = false, paused = false;  // cut by the window at its beginning, at its end
  __device__ __forceinline__ int n_slots() const { return end - first; }
  // Chunks of the sequence [begin_chunk, end_chunk), possibly none.
  __device__ __forceinline__ int begin_chunk() const { return first - chain_first; }
  __device__ __forceinline__ int end_chunk() const {
    return min(end - chain_first, static_cast<int>((length + kChunk - 1) / kChunk));
  }
};

// The piece around position p of the lane that owns [lo, hi).
__device__ __forceinline__ void set_piece(Piece& w, int64_t begin, int64_t end, int n_slots, int lo, int hi) {
  w.token = begin;
  w.length = end - begin;
  const int origin = w.head * n_slots;
  w.chain_first = origin + static_cast<int>(first_slot(begin, w.sequence));
  w.chain_end = origin + static_cast<int>(first_slot(end, w.sequence + 1));
  w.first = max(w.chain_first, lo);
  w.end = min(w.chain_end, hi);
}

__device__ __forceinline__ Piece find_piece(const SeqStart& start, int n_sequences, int n_slots, int p, int lo,
                                            int hi) {
  Piece w;
  w.head = p / n_slots;
  const int slot = p - w.head * n_slots;
  int first = 0, last = n_sequences - 1;
  while (first < last) {
    const int mid = (first + last + 1) / 2;
    if (first_slot(start[mid], mid) <= slot) first = mid;
    else last = mid - 1;
  }
  w.sequence = first;
  set_piece(w, start[first], start[first + 1], n_slots, lo, hi);
  return w;
}

// The pieces of a lane in the order of time; f(piece, step of its first slot).
template <class F>
__device__ __forceinline__ void for_each_piece(const KdaPrefillSm90& a, const Lanes& lanes, int lane, F f) {
  const SeqStart start{a.seq_start, a.seq_start_is_64};
  const int lo = lanes.first(lane), hi = lanes.first(lane + 1);
  if (lo == hi) return;
  Piece w = find_piece(start, a.n_sequences, lanes.n_slots, hi - 1, lo, hi);
  int step = 0;
  while (true) {
    const int next_sequence = w.sequence > 0 ? w.sequence - 1 : a.n_sequences - 1;
    const int64_t next_begin = start[next_sequence];  // asked for before it is needed
    const int64_t next_end = w.sequence > 0 ? w.token : a.n_tokens;
    f(w, step);
    step += w.n_slots();
    if (w.first == lo) return;
    w.head -= w.sequence == 0;
    w.sequence = next_sequence;
    set_piece(w, next_begin, next_end, lanes.n_slots, lo, hi);
  }
}

}  // namespace linnet::ops::sm90
