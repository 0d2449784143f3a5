// What the scanning CTA's roles in the KDA prefill share, and the warps that serve its consumers: they load records and values and store outputs. What the
// CTA does, and its shared memory: linear_attn_sm90_scan.cuh.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_schedule.cuh"

namespace linnet::ops::sm90 {

constexpr int kStages = 2, kRecordParts = 3, kValueStages = 4;
constexpr int kConsumers = 128;  // threads of a part
constexpr int kConsumerArrivals = kConsumers / 32 * kWarpArrivals;
template <class Scan>
constexpr int kScanThreads = (Scan::kGroups + 1) * kConsumers;  // and the warps that serve them
constexpr int kConsumerRegisters = 224,
              kServantRegisters = 56;  // of the 168 that each thread of a scan-only CTA starts with
constexpr int kRecordBytes = 66560;    // a record in shared memory, rounded up to the swizzle's 1024
constexpr int kValueBytes =
    kChunk * 128;  // of a part: 64 values a token, their 16-byte pieces permuted by piece ^ (token & 7)
constexpr int kValueOffset = kStages * kRecordBytes,
              kBarrierOffset = kValueOffset + kValueStages * kParts * kValueBytes;
constexpr int kScanSmemBytes = kBarrierOffset + (2 * kRecordParts * kStages + (2 + kParts) * kValueStages) * 8;
// A record is loaded and freed in parts, as they are read: K~; Q~, T and, from the record's end, D; K^ and A.
__device__ __forceinline__ uint32_t part_offset(int part) {
  return part == 0 ? 0 : part == 1 ? offsetof(Record, q_in) : offsetof(Record, k_out);
}
__device__ __forceinline__ uint32_t part_bytes(int part) { return part == 0 ? 2 * kPanelBytes : 3 * kPanelBytes; }

// Position in a ring of n: stage, and the parity of its barriers' phase.
template <int n>
struct Cursor {
  int stage = 0, phase = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == n) stage = 0, phase ^= 1;
  }
};
using RecordCursor = Cursor<kStages>;
using ValueCursor = Cursor<kValueStages>;

// Barriers. Of a record's parts: loaded, and read by all consumers.
__device__ __forceinline__ uint32_t loaded(uint32_t smem, int record_part, int stage) {
  return smem + kBarrierOffset + (record_part * kStages + stage) * 8;
}
__device__ __forceinline__ uint32_t read_by_all(uint32_t smem, int record_part, int stage) {
  return loaded(smem, kRecordParts + record_part, stage);
}
// Of a stage of values: loaded, outputs stored, a part's outputs written over its values.
__device__ __forceinline__ uint32_t values(uint32_t smem, int stage) {
  return smem + kBarrierOffset + (2 * kRecordParts * kStages + stage) * 8;
}
__device__ __forceinline__ uint32_t stored(uint32_t smem, int stage) { return values(smem, kValueStages + stage); }
__device__ __forceinline__ uint32_t written(uint32_t smem, int part, int stage) {
  return values(smem, (2 + part) * kValueStages + stage);
}

template <class Scan>
__device__ __forceinline__ void init_scan_barriers(uint32_t smem) {
  for (int i = 0; i < kStages; i++) {
    for (int part = 0; part < kRecordParts; part++) {
      barrier_init(loaded(smem, part, i), 1);
      barrier_init(read_by_all(smem, part, i), Scan::kGroups * kConsumerArrivals);
    }
  }
  for (int i = 0; i < kValueStages; i++) {
    barrier_init(values(smem, i), 32);
    barrier_init(stored(smem, i), kWarpArrivals);
    for (int part = 0; part < kParts; part++) barrier_init(written(smem, part, i), kConsumerArrivals);
  }
}

// One lane of time as its roles see it. Roles are templates over the kind of scan: this one, or one derived from it with overloads of its
// own of has_values, pieces_of, prefetch_state, load_state and store_state.
struct ScanArgs {
  const KdaPrefillSm90& a;
  Workspace w;
  Lanes lanes;
  int lane;
  int part;  // of the columns: a consumer's, or the CTA's

  static constexpr int kGroups = kParts;                                         // of consumers in a CTA
  static constexpr bool kOutputs = true, kCheckpoints = false, kNarrow = false;  // narrow: heads of fewer than 128
};

// A part of the columns alone, one group: for few chains, each on two CTAs.
struct SplitScan : ScanArgs {
  static constexpr int kGroups = 1;
};

__device__ __forceinline__ bool has_values(const ScanArgs&) { return true; }  // else they are zero

// Columns of keys and of values beyond are zero.
template <class Scan>
__device__ __forceinline__ int head_dim(const Scan& s) {
  if constexpr (Scan::kNarrow) return s.a.head_dim;
  else return kDim;
}

// The pieces of the lane in its window; f(piece, step of its first slot).
template <class F>
__device__ __forceinline__ void pieces_of(const ScanArgs& s, F f) {
  const Window window = window_of(s.w, s.lanes);
  for_each_piece(s.a, s.lanes, s.lane, [&](Piece w, int first) {
    const int end = first + w.n_slots(), late = max(window.first - first, 0), early = max(end - window.end, 0);
    if (late + early >= w.n_slots()) return;
    w.resumed = late > 0;
    w.paused = early > 0;
    w.first += late;
    w.end -= early;
    f(w, first + late);
  });
}

// Every chunk of the lane in order; f(piece, chunk, step, number of the chunk).
template <class Scan, class F>
__device__ __forceinline__ void for_each_chunk(const Scan& s, F f) {
  int number = 0;
  pieces_of(s, [&](const Piece& w, int first_step) {
    const int begin = w.begin_chunk(), end = w.end_chunk();
    for (int c = begin; c < end; c++) f(w, c, first_step + c - begin, number++);
  });
}

// The warp that loads records, as soon as they are ready and a stage is free.
template <class Scan>
__device__ __forceinline__ void load_records(const Scan& s, uint32_t smem) {
  const int thread = threadIdx.x & 31;
  const Window window = window_of(s.w, s.lanes);
  const int32_t* const flags = s.w.written + static_cast<int64_t>(s.lane) * s.lanes.steps();
  RecordCursor at;
  int n_ready = s.w.flow == Flow::in_turn ? 0x7fffffff : 0;  // steps before n_ready are
  if (s.w.flow == Flow::in_turn) wait_for_dependency();      // prep
  for_each_chunk(s, [&](const Piece& w, int c, int step, int number) {
    const int64_t entry =
        s.w.flow == Flow::beside
            ? static_cast<int64_t>(s.lane) * window.size + step - window.first
            : static_cast<int64_t>(w.chain_first + c - w.head * s.lanes.n_slots) * s.a.n_heads + w.head;
    while (step >= n_ready) {  // many flags in one look
      const int mine = step + thread;
      const bool is = mine < window.end && load_acquire(flags + mine) == mine + 1;
      n_ready = step + __clz(__brev(~__ballot_sync(~0u, is)));  // up to the first that is not; all 32, if all are
      if (n_ready > step) fence_proxies();
    }
    const char* const from = reinterpret_cast<const char*>(s.w.records + entry);
    const uint32_t to = smem + at.stage * kRecordBytes;
#pragma unroll
    for (int part = 0; part < kRecordParts; part++) {
      const uint32_t bar = loaded(smem, part, at.stage), offset = part_offset(part);
      if (number >= kStages) barrier_wait(read_by_all(smem, part, at.stage), at.phase ^ 1);
      if (thread == 0) {
        constexpr uint32_t kDecay = offsetof(Record, decay), kSolve = offsetof(Record, solve);
        const bool with_decay = part == 1;
        if constexpr (Scan::kOutputs) {
          barrier_expect(bar, part_bytes(part) + (with_decay ? sizeof(Record::decay) : 0));
          bulk_load(to + offset, from + offset, part_bytes(part), bar);
        } else {  // neither q_in nor attend
          barrier_expect(bar, with_decay ? kPanelBytes + sizeof(Record::decay) : 2 * kPanelBytes);
          if (with_decay) bulk_load(to + kSolve, from + kSolve, kPanelBytes, bar);
          else bulk_load(to + offset, from + offset, 2 * kPanelBytes, bar);
        }
        if (with_decay) bulk_load(to + kDecay, from + kDecay, sizeof(Record::decay), bar);
      }
      __syncwarp();
    }
    at.advance();
  });
  if (s.w.flow == Flow::beside) wait_for_dependency();  // so that this grid does not end before prep's
}

__device__ __forceinline__ uint32_t value_piece(uint32_t smem, int stage, int part, int row, int piece) {
  return smem + kValueOffset + (stage * kParts + part) * kValueBytes + row * 128 + ((piece ^ (row & 7)) << 4);
}

// Asks the state that a piece begins with into the L2.
__device__ __forceinline__ void prefetch_state(const ScanArgs& s, const Piece& w) {
  const int slot = w.first == w.chain_first && s.a.state_in ? s.a.state_in[w.sequence] : -1;
  if (slot < 0) return;
  const float* const state =
      static_cast<const float*>(s.a.state) + (static_cast<int64_t>(slot) * s.a.n_heads + w.head) * kDim * kDim;
  for (int i = static_cast<int>(threadIdx.x & 31); i < kDim * kDim / 32; i += 32) prefetch_line(state + 32 * i);
}

// The warp that loads values, and what a piece begins with.
template <class Scan>
__device__ __forceinline__ void load_value_rows(const Scan& s, uint32_t smem) {
  constexpr int kPieces = 8 * Scan::kGroups,
                kRows = 32 / kPieces;  // of 16 bytes a token; tokens that the warp copies at a time
  const int row = (threadIdx.x & 31) / kPieces, first = Scan::kGroups == 1 ? 8 * s.part : 0,
            piece = first + (threadIdx.x & 31) % kPieces;
  const int64_t step_bytes = kRows * s.a.token_stride * 2;
  const char* const v = static_cast<const char*>(s.a.v);
  ValueCursor at;
  for_each_chunk(s, [&](const Piece& w, int c, int, int number) {
    if (c == w.begin_chunk()) prefetch_state(s, w);
    const int64_t token = w.token + static_cast<int64_t>(c) * kChunk + row;
    const int64_t left = has_values(s) && piece * 8 < head_dim(s) ? w.token + w.length - token : 0;
    const char* value = v + (token * s.a.token_stride + w.head * head_dim(s)) * 2 + piece * 16;
    const uint32_t to = value_piece(smem, at.stage, piece >> 3, row, piece & 7);
    const auto place = [&](int i) { return (to ^ (i * kRows & 7) << 4) + i * kRows * 128; };
    if (number >= kValueStages) barrier_wait(stored(smem, at.stage), at.phase ^ 1);
    const bool all = left > kChunk - kRows;
    if (all || left <= 0) {  // nearly always: few instructions each, else this warp is what the consumers wait for
      const int64_t step = all ? step_bytes : 0;
      const char* from = all ? value : v;
#pragma unroll
      for (int i = 0; i < kChunk / kRows; i++, from += step) copy16(place(i), from, all ? 16 : 0);
    } else {
#pragma unroll 1
      for (int i = 0; i < kChunk / kRows; i++) {
        const bool valid = kRows * i < left;
        copy16(place(i), valid ? value + i * step_bytes : v, valid ? 16 : 0);
      }
    }
    barrier_arrive_after_copies(values(smem, at.stage));
    at.advance();
  });
}

// A part's outputs of one chunk from shared memory to the tensor; `left` of them from this thread's first row on.
__device__ __forceinline__ void store_part(const ScanArgs& s, uint32_t smem, int stage, int part, char* to,
                                           int64_t left) {
  const int thread = threadIdx.x & 31, row = thread >> 3, piece = thread & 7;
  const int64_t step_bytes = 4 * s.a.out_stride * 2;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    uint4 v[8];
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = load_shared4(value_piece(smem, stage, part, 4 * (8 * half + i) + row, piece));
    if (left > 4 * 15) {  // without a branch for each
#pragma unroll
      for (int i = 0; i < 8; i++) *reinterpret_cast<uint4*>(to + (8 * half + i) * step_bytes) = v[i];
      continue;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
      if (4 * (8 * half + i) < left) *reinterpret_cast<uint4*>(to + (8 * half + i) * step_bytes) = v[i];
  }
}

// The storing warp: each chunk's outputs from shared memory to the tensor, then their stage is free.
template <class Scan>
__device__ __forceinline__ void store_outputs(const Scan& s, uint32_t smem) {
  const int thread = threadIdx.x & 31, row = thread >> 3, piece = thread & 7;
  ValueCursor at;
  for_each_chunk(s, [&](const Piece& w, int c, int, int) {
    const int64_t token = w.token + static_cast<int64_t>(c) * kChunk + row, left = w.token + w.length - token;
    char* const to = static_cast<char*>(s.a.out) + (token * s.a.out_stride + w.head * head_dim(s)) * 2 + piece * 16;
#pragma unroll 1
    for (int i = 0; i < Scan::kGroups; i++) {
      const int part = Scan::kGroups == 1 ? s.part : i;
      barrier_wait(written(smem, part, at.stage), at.phase);
      if constexpr (Scan::kOutputs)
        store_part(s, smem, at.stage, part, to + part * 128, part * 64 + piece * 8 < head_dim(s) ? left : 0);
    }
    barrier_arrive_warp(stored(smem, at.stage));
    at.advance();
  });
}

}  // namespace linnet::ops::sm90
