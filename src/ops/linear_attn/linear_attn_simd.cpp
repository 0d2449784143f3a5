// The recurrent core with portable vectors, f32: how the work is shared between threads. The work itself is in the -inl.h files.
#include "ops/linear_attn/linear_attn_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear_attn/linear_attn_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/linear_attn/linear_attn_simd_chunk-inl.h"
#include "ops/linear_attn/linear_attn_simd_step-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops::linear_attn::HWY_NAMESPACE {

// Numbers of floats that one thread needs as scratch in run_chunks.
inline int64_t chunk_scratch_floats(int64_t Dk, int64_t Dv) {
  return 2 * ChunkOperators::floats(Dk) + ChunkScratch::floats(Dk) + panel_count(Dv) * panel_floats(Dk);
}

// All chunks of one head, all its value columns.
void run_head(const LinearAttnHead& x, float* scratch) {
  const ChunkOperators op(scratch, x.Dk);
  const ChunkScratch m(scratch + ChunkOperators::floats(x.Dk), x.Dk);
  float* state = scratch + ChunkOperators::floats(x.Dk) + ChunkScratch::floats(x.Dk);
  const int64_t panels = panel_count(x.Dv);
  for (int64_t p = 0; p < panels; ++p) load_panel(x, p, state + p * panel_floats(x.Dk));
  for (int64_t first = 0; first < x.n_tokens; first += kLinearAttnChunk) {
    const LinearAttnHead chunk = tokens_of(x, first, std::min(kLinearAttnChunk, x.n_tokens - first));
    prepare_chunk(chunk, m, op);
    for (int64_t p = 0; p < panels; ++p) apply_chunk(chunk, op, p, state + p * panel_floats(x.Dk));
  }
  for (int64_t p = 0; p < panels; ++p) store_panel(x, p, state + p * panel_floats(x.Dk));
}

// The tokens that run in chunks, of all sequences: one head after the other on each thread.
void run_chunks(const LinearAttnArgs& a, const Exec& exec) {
  const int64_t B = a.seq_start[0] - 1, H = a.v[1];
  const int32_t* start = a.seq_start.as<int32_t>();
  Workspace::Scope scope(exec.workspace);
  const int64_t scratch_floats = chunk_scratch_floats(a.k[2], a.v[2]);
  float* scratch = exec.workspace.take<float>(exec.pool.size() * scratch_floats);
  exec.pool.parallel_for(B * H, 1, [&](int64_t task_begin, int64_t task_end, int thread) {
    for (int64_t task = task_begin; task < task_end; ++task) {
      const int64_t h = task % H, b = task / H, n_tokens = start[b + 1] - start[b];
      const int64_t n = n_tokens - stepped_tokens(n_tokens);
      if (n > 0) run_head(tokens_of(head_of(a, b, h), 0, n), scratch + thread * scratch_floats);
    }
  });
}

// The tokens that are stepped: whole short sequences, and short ends. Where there are fewer heads than threads, the value columns
// of a head are shared out as well: they do not see each other.
void run_steps(const LinearAttnArgs& a, const Exec& exec) {
  const int64_t B = a.seq_start[0] - 1, H = a.v[1], Dk = a.k[2], Dv = a.v[2];
  const int32_t* start = a.seq_start.as<int32_t>();
  int64_t stepped = 0;
  for (int64_t b = 0; b < B; ++b) stepped += stepped_tokens(start[b + 1] - start[b]) > 0;
  if (stepped == 0) return;
  const int64_t n_threads = exec.pool.size(), units = padded(Dv) / 16;  // a unit: one cache line of every state row
  const int64_t slices = std::clamp<int64_t>((n_threads + stepped * H - 1) / (stepped * H), 1, units);
  Workspace::Scope scope(exec.workspace);
  const int64_t scratch_floats = step_scratch_floats(Dk);
  float* scratch = exec.workspace.take<float>(n_threads * scratch_floats);
  exec.pool.parallel_for(B * H * slices, 1, [&](int64_t task_begin, int64_t task_end, int thread) {
    for (int64_t task = task_begin; task < task_end; ++task) {
      const int64_t slice = task % slices, h = task / slices % H, b = task / slices / H;
      const int64_t n_tokens = start[b + 1] - start[b], n = stepped_tokens(n_tokens);
      if (n == 0) continue;
      const int64_t begin = units * slice / slices * 16, end = std::min(Dv, units * (slice + 1) / slices * 16);
      step_head(tokens_of(head_of(a, b, h), n_tokens - n, n), begin, end, scratch + thread * scratch_floats);
    }
  });
}

void run(const LinearAttnArgs& a, const Exec& exec) {
  run_chunks(a, exec);
  run_steps(a, exec);
}

size_t workspace_bytes(const LinearAttnArgs& a, int n_threads) {
  const int64_t Dk = a.k[2], floats = std::max(chunk_scratch_floats(Dk, a.v[2]), step_scratch_floats(Dk));
  return aligned_size(static_cast<size_t>(n_threads * floats) * sizeof(float));
}

}  // namespace linnet::ops::linear_attn::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace linear_attn {
HWY_EXPORT(run);
HWY_EXPORT(workspace_bytes);
}  // namespace linear_attn

void linear_attn_simd(const LinearAttnArgs& args, const Exec& exec) noexcept {
  using namespace linear_attn;
  HWY_DYNAMIC_DISPATCH(run)(args, exec);
}

size_t linear_attn_simd_workspace_bytes(const LinearAttnArgs& args, int n_threads) {
  using namespace linear_attn;
  return HWY_DYNAMIC_DISPATCH(workspace_bytes)(args, n_threads);
}

}  // namespace linnet::ops
#endif
