// The absorbed way: per token and head, q moves into latent space (q~ = W_uk^T q), attention runs on the cache rows
// themselves, and the gathered latent moves out (out = W_uv y). All heads share a cache row, so a block of rows is
// loaded once for all of them.
//
// Rows (token, head) of a chunk of tokens are cut into groups of one sequence, the cache into splits of kSplit keys at
// absolute positions. A task is a group x a split: it starts its own softmax. A row's splits are merged in ascending
// order, so the result depends neither on the thread count nor on how many splits are in flight. Private to this
// folder.
#pragma once

#include "ops/mla/mla_simd.h"

namespace linnet::ops {

constexpr int64_t kSplit = 512;       // keys a task passes: 8 blocks, 576 KiB of a bf16 cache at 576 values
constexpr int64_t kGroupRows = 32;    // rows that share a loaded block
constexpr int64_t kChunkRows = 512;   // rows of q~ and y held at a time (more where one token has more heads)
constexpr int64_t kMinPartials = 64;  // tasks in flight at least
constexpr int64_t kSlice = 128;       // columns of q~ or out that one task makes

// Consecutive rows of one sequence within a chunk.
struct MlaGroup {
  int64_t row, rows;
  int64_t limit;  // of its first row's token; see MlaChunk::limit
  int64_t token;  // of its first row
  const std::byte* const* blocks;
};

struct MlaTask {
  int32_t group, split;
};

// One task's softmax over its split; a row that sees none of it keeps max -inf, sum 0 and y 0, which merge as nothing.
struct MlaPartial {
  float *max, *sum, *y;  // [kGroupRows], [kGroupRows], [kGroupRows, R]
};

struct MlaChunk {
  const MlaArgs* args;
  int64_t begin, tokens;  // packed tokens [begin, begin + tokens)
  float* q;               // [rows, R + Dr]: (W_uk^T q, q's shared part)
  float *max, *sum, *y;   // [rows], [rows], [rows, R]: merged so far
  MlaGroup* groups;
  int64_t n_groups;
  MlaTask* tasks;  // [n_partials]: those in flight
  int64_t n_tasks;
  float* partials;  // [n_partials] of partial_floats()
  float* scratch;   // per thread, kScratchFloats

  int64_t heads() const { return args->q[1]; }
  // Keys that a row of a group sees: those of the past, and of this call up to its own.
  int64_t limit(const MlaGroup& g, int64_t row) const { return g.limit + (begin + row / heads() - g.token); }
  int64_t partial_floats() const { return 2 * kGroupRows + kGroupRows * args->R; }
  MlaPartial partial(int64_t i) const {
    float* at = partials + i * partial_floats();
    return {at, at + kGroupRows, at + 2 * kGroupRows};
  }
};

constexpr int64_t kScratchFloats = kGroupRows * kMlaBlock + kGroupRows;  // scores, factors

// The parts of a chunk's work; each is a task of a parallel region.
void mla_absorb(const MlaChunk& chunk, int64_t head, int64_t r0, int64_t r1) noexcept;  // columns [r0, r1) of q~
void mla_attend(const MlaChunk& chunk, int64_t task, float* scratch) noexcept;          // tasks[task] into its partial
void mla_merge(const MlaChunk& chunk, int64_t row) noexcept;  // the partials in flight into a row
void mla_release(const MlaChunk& chunk, int64_t head, int64_t d0, int64_t d1) noexcept;  // columns [d0, d1) of out

}  // namespace linnet::ops
