// The absorbed way: how a call is cut into chunks, groups and splits, and the order of the work.
#include "ops/mla/mla_absorbed.h"

#include <cstring>
#include <limits>

namespace linnet::ops {
namespace {

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
                                token, a.seqs[b].blocks};
    }
  }
}

void move_q(const MlaChunk& c, const Exec& exec) {
  const MlaArgs& a = *c.args;
  const int64_t H = c.heads(), E = a.R + a.Dr, slices = ceil_div(a.R, kSlice);
  exec.pool.parallel_for(H * slices, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r0 = i % slices * kSlice;
      mla_absorb(c, i / slices, r0, std::min(r0 + kSlice, a.R));
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
      for (int64_t i = begin; i < end; ++i) mla_attend(c, i, c.scratch + thread * kScratchFloats);
    });
    exec.pool.parallel_for(rows, ceil_div(rows, 4 * exec.pool.size()), [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) mla_merge(c, row);
    });
  }
}

void move_out(const MlaChunk& c, const Exec& exec) {
  const int64_t Dv = c.args->Dv, slices = ceil_div(Dv, kSlice);
  exec.pool.parallel_for(c.heads() * slices, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t d0 = i % slices * kSlice;
      mla_release(c, i / slices, d0, std::min(d0 + kSlice, Dv));
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

void mla_absorbed(const MlaArgs& a, int64_t begin, int64_t end, const Exec& exec) noexcept {
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
