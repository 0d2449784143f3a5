// The absorbed way: per token and head, q moves into latent space (q~ = W_uk^T q), attention runs on the cache rows themselves, and the
// gathered latent moves out (out = W_uv y). All heads share a cache row, so a block of rows is loaded once for all of them.
//
// Rows (token, head) of a chunk of tokens are cut into groups of one sequence, the cache into splits of kSplit keys at absolute
// positions. A task is a group x a split: it starts its own softmax. A row's splits are merged in ascending order, so the result
// depends neither on the thread count nor on how many splits are in flight.
#include <cstring>
#include <limits>

#include "ops/mla/mla.h"
#include "ops/mla/mla_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/mla/mla_absorbed_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/mla/mla_kernels-inl.h"

#ifndef LINNET_OPS_MLA_ABSORBED_SHARED  // what the targets share, once
#define LINNET_OPS_MLA_ABSORBED_SHARED
namespace linnet::ops {

constexpr int64_t kSplit = 512;       // keys a task passes: 8 blocks, 576 KiB of a bf16 cache at 576 values
constexpr int64_t kGroupRows = 32;    // rows that share a loaded block
constexpr int64_t kChunkRows = 512;   // rows of q~ and y held at a time (more where one token has more heads)
constexpr int64_t kMinPartials = 64;  // tasks in flight at least
constexpr int64_t kSlice = 64;        // columns of q~ or out that one task makes

// Consecutive rows of one sequence within a chunk.
struct MlaGroup {
  int64_t row, rows;
  int64_t limit;  // of its first row's token; see MlaChunk::limit
  int64_t token;  // of its first row
  const void* cache;
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

}  // namespace linnet::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Columns [r0, r1) of q~ of head h, all tokens of the chunk.
template <class W>
void absorb_slice(const MlaChunk& c, int64_t h, int64_t r0, int64_t r1) {
  const MlaArgs& a = *c.args;
  const int64_t E = a.R + a.Dr, H = c.heads();
  const W* w_uk = a.kv_b.as<W>() + h * (a.Dn + a.Dv) * a.R;
  const float* q = a.q.row<float>(c.begin) + h * (a.Dn + a.Dr);
  sum_rows<W>({c.tokens, r1 - r0, a.Dn, q, a.q.row_stride, w_uk + r0, a.R, c.q + h * E + r0, H * E, nullptr});
}

void absorb(const MlaChunk& c, int64_t h, int64_t r0, int64_t r1) {
  switch (c.args->kv_b.dtype) {
    case DType::bf16: return absorb_slice<bf16>(c, h, r0, r1);
    case DType::f16: return absorb_slice<f16>(c, h, r0, r1);
    default: return absorb_slice<float>(c, h, r0, r1);
  }
}

// Columns [d0, d1) of out of head h, all tokens of the chunk.
template <class W>
void release_slice(const MlaChunk& c, int64_t h, int64_t d0, int64_t d1) {
  const MlaArgs& a = *c.args;
  const int64_t H = c.heads();
  const W* w_uv = a.kv_b.as<W>() + (h * (a.Dn + a.Dv) + a.Dn + d0) * a.R;
  float* out = a.out.row<float>(c.begin) + h * a.Dv + d0;
  dot_rows<W>({c.tokens, d1 - d0, a.R, c.y + h * a.R, H * a.R, w_uv, a.R, out, a.out.row_stride, 1});
  for (int64_t t = 0; t < c.tokens; ++t) {
    const float inverse = 1 / c.sum[t * H + h];
    for (int64_t d = 0; d < d1 - d0; ++d) out[t * a.out.row_stride + d] *= inverse;
  }
}

void release(const MlaChunk& c, int64_t h, int64_t d0, int64_t d1) {
  switch (c.args->kv_b.dtype) {
    case DType::bf16: return release_slice<bf16>(c, h, d0, d1);
    case DType::f16: return release_slice<f16>(c, h, d0, d1);
    default: return release_slice<float>(c, h, d0, d1);
  }
}

template <class T>
void attend_split(const MlaChunk& c, const MlaTask& task, const MlaPartial& to, float* scratch) {
  const MlaArgs& a = *c.args;
  const MlaGroup& g = c.groups[task.group];
  const int64_t E = a.R + a.Dr, begin = task.split * kSplit;
  const int64_t end = std::min(begin + kSplit, c.limit(g, g.row + g.rows - 1));
  std::fill_n(to.max, g.rows, -std::numeric_limits<float>::infinity());
  std::fill_n(to.sum, g.rows, 0.0f);
  std::fill_n(to.y, g.rows * a.R, 0.0f);
  int64_t limit[kGroupRows];
  const SoftmaxRows softmax{g.rows, limit, scratch, to.max, to.sum, scratch + kGroupRows * kMlaBlock};
  for (int64_t key = begin; key < end; key += kMlaBlock) {
    const int64_t keys = std::min(kMlaBlock, end - key);
    const T* rows = static_cast<const T*>(g.cache) + key * E;
    dot_rows<T>({g.rows, keys, E, c.q + g.row * E, E, rows, E, scratch, kMlaBlock, 1});
    for (int64_t i = 0; i < g.rows; ++i) limit[i] = std::clamp<int64_t>(c.limit(g, g.row + i) - key, 0, keys);
    softmax_block(softmax, a.scale);
    gather_values(softmax, rows, E, a.R, to.y, a.R);
  }
}

void attend_task(const MlaChunk& c, int64_t i, float* scratch) {
  if (c.args->cache_dtype == DType::bf16) attend_split<bf16>(c, c.tasks[i], c.partial(i), scratch);
  else attend_split<float>(c, c.tasks[i], c.partial(i), scratch);
}

// Adds the splits in flight to one row's result, in their order: both are brought to the larger max. Every row sees key 0, so after
// its first split the max is above -inf.
void merge_row(const MlaChunk& c, int64_t row) {
  const Tag d;
  const int64_t R = c.args->R;
  for (int64_t i = 0; i < c.n_tasks; ++i) {
    const MlaGroup& g = c.groups[c.tasks[i].group];
    if (row < g.row || row >= g.row + g.rows) continue;
    const MlaPartial from = c.partial(i);
    const int64_t at = row - g.row;
    const float max = std::max(c.max[row], from.max[at]);
    const auto factor = [&](float own)
                            HWY_ATTR { return own == max ? 1.0f : hn::GetLane(exp_f32(d, hn::Set(d, own - max))); };
    const float keep = factor(c.max[row]), add = factor(from.max[at]);
    const Vec vkeep = hn::Set(d, keep), vadd = hn::Set(d, add);
    float* y = c.y + row * R;
    map_f32(
        R, y, [&](auto old, auto part) HWY_ATTR { return hn::MulAdd(vkeep, old, hn::Mul(vadd, part)); },
        static_cast<const float*>(y), static_cast<const float*>(from.y + at * R));
    c.sum[row] = c.sum[row] * keep + from.sum[at] * add;
    c.max[row] = max;
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(absorb);
HWY_EXPORT(release);
HWY_EXPORT(attend_task);
HWY_EXPORT(merge_row);

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t chunk_rows(const MlaArgs& a) { return std::min(std::max(kChunkRows, a.q[1]), a.q[0] * a.q[1]); }
int64_t n_partials(int n_threads) { return std::max<int64_t>(kMinPartials, 2 * n_threads); }

MlaChunk take_chunk(const MlaArgs& a, const Exec& exec) {
  const int64_t rows = chunk_rows(a), partials = n_partials(exec.pool.size());
  MlaChunk c{};
  c.args = &a;
  c.q = exec.workspace.take<float>(rows * (a.R + a.Dr));
  c.max = exec.workspace.take<float>(rows);
  c.sum = exec.workspace.take<float>(rows);
  c.y = exec.workspace.take<float>(rows * a.R);
  c.groups = exec.workspace.take<MlaGroup>(rows);
  c.tasks = exec.workspace.take<MlaTask>(partials);
  c.partials = exec.workspace.take<float>(partials * c.partial_floats());
  c.scratch = exec.workspace.take<float>(exec.pool.size() * kScratchFloats);
  return c;
}

// Cuts the rows of the chunk's tokens at the bounds of sequences and every kGroupRows.
void find_groups(MlaChunk& c) {
  const MlaArgs& a = *c.args;
  const int32_t* start = a.seq_start.as<int32_t>();
  c.n_groups = 0;
  for (int64_t b = 0; b + 1 < a.seq_start[0]; ++b) {
    const int64_t from = std::max<int64_t>(start[b], c.begin), to = std::min<int64_t>(start[b + 1], c.begin + c.tokens);
    const int64_t H = c.heads(), row_end = (to - c.begin) * H;
    for (int64_t row = (from - c.begin) * H; row < row_end; row += kGroupRows) {
      const int64_t token = c.begin + row / H;
      c.groups[c.n_groups++] = {row, std::min(kGroupRows, row_end - row), a.seqs[b].n_past + token - start[b] + 1,
                                token, a.seqs[b].cache};
    }
  }
}

void move_q(const MlaChunk& c, const Exec& exec) {
  const MlaArgs& a = *c.args;
  const int64_t H = c.heads(), E = a.R + a.Dr, slices = ceil_div(a.R, kSlice);
  exec.pool.parallel_for(H * slices, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r0 = i % slices * kSlice;
      HWY_DYNAMIC_DISPATCH(absorb)(c, i / slices, r0, std::min(r0 + kSlice, a.R));
    }
  });
  if (a.Dr == 0) return;
  for (int64_t row = 0; row < c.tokens * H; ++row)
    std::memcpy(c.q + row * E + a.R, a.q.row<float>(c.begin + row / H) + row % H * (a.Dn + a.Dr) + a.Dn,
                static_cast<size_t>(a.Dr) * sizeof(float));
}

// As many tasks at a time as there are partials, groups in order and a group's splits in order.
void attend(MlaChunk& c, const Exec& exec) {
  const int64_t rows = c.tokens * c.heads(), R = c.args->R, in_flight = n_partials(exec.pool.size());
  std::fill_n(c.max, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(c.sum, rows, 0.0f);
  std::fill_n(c.y, rows * R, 0.0f);
  int32_t group = 0, split = 0;
  while (group < c.n_groups) {
    for (c.n_tasks = 0; c.n_tasks < in_flight && group < c.n_groups;) {
      const MlaGroup& g = c.groups[group];
      c.tasks[c.n_tasks++] = {group, split};
      if (++split * kSplit >= c.limit(g, g.row + g.rows - 1)) ++group, split = 0;
    }
    exec.pool.parallel_for(c.n_tasks, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i)
        HWY_DYNAMIC_DISPATCH(attend_task)(c, i, c.scratch + thread * kScratchFloats);
    });
    exec.pool.parallel_for(rows, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) HWY_DYNAMIC_DISPATCH(merge_row)(c, row);
    });
  }
}

void move_out(const MlaChunk& c, const Exec& exec) {
  const int64_t Dv = c.args->Dv, slices = ceil_div(Dv, kSlice);
  exec.pool.parallel_for(c.heads() * slices, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t d0 = i % slices * kSlice;
      HWY_DYNAMIC_DISPATCH(release)(c, i / slices, d0, std::min(d0 + kSlice, Dv));
    }
  });
}

}  // namespace

size_t mla_absorbed_workspace(const MlaArgs& a, int n_threads) {
  const int64_t rows = chunk_rows(a), partials = n_partials(n_threads);
  return float_bytes(rows * (a.R + a.Dr)) + 2 * float_bytes(rows) + float_bytes(rows * a.R) +
         aligned_size(static_cast<size_t>(rows) * sizeof(MlaGroup)) +
         aligned_size(static_cast<size_t>(partials) * sizeof(MlaTask)) +
         float_bytes(partials * kGroupRows * (a.R + 2)) + float_bytes(n_threads * kScratchFloats);
}

void mla_absorbed_simd(const MlaArgs& a, int64_t begin, int64_t end, const Exec& exec) noexcept {
  if (begin == end) return;
  Workspace::Scope scope(exec.workspace);
  MlaChunk c = take_chunk(a, exec);
  const int64_t most = chunk_rows(a) / a.q[1];
  for (c.begin = begin; c.begin < end; c.begin += c.tokens) {
    c.tokens = std::min(most, end - c.begin);
    find_groups(c);
    move_q(c, exec);
    attend(c, exec);
    move_out(c, exec);
  }
}

}  // namespace linnet::ops
#endif
