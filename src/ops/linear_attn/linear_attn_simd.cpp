// The recurrent core with portable vectors, f32: how the work is shared between threads. The work itself is in the
// -inl.h files.
#include "ops/linear_attn/linear_attn_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear_attn/linear_attn_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/linear_attn/linear_attn_simd_chunk-inl.h"
#include "ops/linear_attn/linear_attn_simd_step-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Scratch of the chunk path: per thread one set of temporaries and the panels of one head, and two sets of operators.
struct ChunkMemory {
  float* memory;
  int64_t Dk, Dv, n_threads;

  static int64_t floats(int64_t Dk, int64_t Dv, int64_t n_threads) {
    const int64_t state = panel_count(Dv) * panel_floats(Dk);
    return n_threads * (state + ChunkScratch::floats(Dk) + 2 * ChunkOperators::floats(Dk));
  }
  float* panel(int64_t thread, int64_t p) const { return memory + (thread * panel_count(Dv) + p) * panel_floats(Dk); }
  ChunkScratch scratch(int64_t thread) const { return {panel(n_threads, 0) + thread * ChunkScratch::floats(Dk), Dk}; }
  ChunkOperators operators(int64_t slot) const {
    return {scratch(n_threads).q + slot * ChunkOperators::floats(Dk), Dk};
  }
};

// Tokens of sequence b that run in chunks.
inline int64_t chunked_tokens(const LinearAttnArgs& a, int64_t b) {
  const int64_t n_tokens = a.seq_start.as<int32_t>()[b + 1] - a.seq_start.as<int32_t>()[b];
  return n_tokens - stepped_tokens(a, b);
}

// Chunk c of a head; without tokens when there is no such chunk.
inline LinearAttnHead chunk_of(const LinearAttnHead& x, int64_t c) {
  const int64_t first = std::clamp<int64_t>(c * kLinearAttnChunk - x.lead, 0, x.n_tokens);
  return tokens_of(x, first, std::min((c + 1) * kLinearAttnChunk - x.lead, x.n_tokens) - first);
}

inline int64_t chunk_count(const LinearAttnHead& x) {
  return (x.lead + x.n_tokens + kLinearAttnChunk - 1) / kLinearAttnChunk;
}

// Enough heads for every thread: a head stays on one thread, its state in that thread's cache.
void run_whole_heads(const LinearAttnArgs& a, const ChunkMemory& memory, ThreadPool& pool) {
  const int64_t B = a.seq_start[0] - 1, H = a.v[1], panels = panel_count(a.v[2]);
  pool.parallel_for(B * H, 1, [&](int64_t task_begin, int64_t task_end, int thread) {
    const ChunkOperators op = memory.operators(thread);
    const ChunkScratch scratch = memory.scratch(thread);
    for (int64_t task = task_begin; task < task_end; ++task) {
      const int64_t b = task / H, n = chunked_tokens(a, b);
      if (n == 0) continue;
      const LinearAttnHead x = tokens_of(head_of(a, b, task % H), 0, n);
      for (int64_t p = 0; p < panels; ++p) load_panel(x.state, x.Dk, x.Dv, p, memory.panel(thread, p));
      for (int64_t c = 0; c < chunk_count(x); ++c) {
        const LinearAttnHead chunk = chunk_of(x, c);
        prepare_chunk(chunk, scratch, op);
        for (int64_t p = 0; p < panels; ++p) apply_chunk(chunk, op, p, memory.panel(thread, p));
      }
      for (int64_t p = 0; p < panels; ++p) store_panel(memory.panel(thread, p), x.Dk, x.Dv, p, x.state);
    }
  });
}

// Fewer heads than threads: a window of chunks of every head at a time. The operators do not know the state, so each
// chunk's are prepared on any thread; then the panels of the state, which do not know each other, pass through the
// window's chunks.
void run_shared_heads(const LinearAttnHead* heads, int64_t n_heads, const ChunkMemory& memory, ThreadPool& pool) {
  const int64_t window = 2 * memory.n_threads / n_heads, panels = panel_count(memory.Dv);
  int64_t longest = 0;
  for (int64_t i = 0; i < n_heads; ++i) longest = std::max(longest, chunk_count(heads[i]));
  for (int64_t first = 0; first < longest; first += window) {
    pool.parallel_for(n_heads * window, 1, [&](int64_t slot_begin, int64_t slot_end, int thread) {
      for (int64_t slot = slot_begin; slot < slot_end; ++slot) {
        const LinearAttnHead chunk = chunk_of(heads[slot / window], first + slot % window);
        if (chunk.n_tokens > 0) prepare_chunk(chunk, memory.scratch(thread), memory.operators(slot));
      }
    });
    pool.parallel_for(n_heads * panels, 1, [&](int64_t task_begin, int64_t task_end, int thread) {
      float* s = memory.panel(thread, 0);
      for (int64_t task = task_begin; task < task_end; ++task) {
        const int64_t head = task / panels, p = task % panels;
        load_panel(heads[head].state, memory.Dk, memory.Dv, p, s);
        for (int64_t w = 0; w < window && first + w < chunk_count(heads[head]); ++w)
          apply_chunk(chunk_of(heads[head], first + w), memory.operators(head * window + w), p, s);
        store_panel(s, memory.Dk, memory.Dv, p, heads[head].state);
      }
    });
  }
}

// The tokens that run in chunks, of all sequences.
void run_chunks(const LinearAttnArgs& a, const Exec& exec) {
  const int64_t B = a.seq_start[0] - 1, H = a.v[1], Dk = a.k[2], Dv = a.v[2], n_threads = exec.pool.size();
  int64_t chunked = 0;
  for (int64_t b = 0; b < B; ++b) chunked += chunked_tokens(a, b) > 0;
  if (chunked == 0) return;
  Workspace::Scope scope(exec.workspace);
  const ChunkMemory memory{exec.workspace.take<float>(ChunkMemory::floats(Dk, Dv, n_threads)), Dk, Dv, n_threads};
  if (chunked * H >= n_threads) return run_whole_heads(a, memory, exec.pool);
  LinearAttnHead* heads = exec.workspace.take<LinearAttnHead>(n_threads);
  int64_t n_heads = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0, n = chunked_tokens(a, b); h < H && n > 0; ++h)
      heads[n_heads++] = tokens_of(head_of(a, b, h), 0, n);
  run_shared_heads(heads, n_heads, memory, exec.pool);
}

// The tokens that are stepped: whole short sequences, and short ends. Where there are fewer heads than threads, the
// value columns of a head are shared out as well: they do not see each other.
void run_steps(const LinearAttnArgs& a, const Exec& exec) {
  const int64_t B = a.seq_start[0] - 1, H = a.v[1], Dk = a.k[2], Dv = a.v[2];
  const int32_t* start = a.seq_start.as<int32_t>();
  int64_t stepped = 0;
  for (int64_t b = 0; b < B; ++b) stepped += stepped_tokens(a, b) > 0;
  if (stepped == 0) return;
  const int64_t n_threads = exec.pool.size(), units = padded(Dv) / 16;  // a unit: one cache line of every state row
  const int64_t slices = std::clamp<int64_t>((n_threads + stepped * H - 1) / (stepped * H), 1, units);
  Workspace::Scope scope(exec.workspace);
  const int64_t scratch_floats = step_scratch_floats(Dk);
  float* scratch = exec.workspace.take<float>(n_threads * scratch_floats);
  const int64_t n_tasks = B * H * slices, grain = std::max<int64_t>(n_tasks / (4 * n_threads), 1);
  exec.pool.parallel_for(n_tasks, grain, [&](int64_t task_begin, int64_t task_end, int thread) {
    for (int64_t task = task_begin; task < task_end; ++task) {
      const int64_t slice = task % slices, h = task / slices % H, b = task / slices / H;
      const int64_t n_tokens = start[b + 1] - start[b], n = stepped_tokens(a, b);
      if (n == 0) continue;
      const int64_t begin = units * slice / slices * 16, end = std::min(Dv, units * (slice + 1) / slices * 16);
      const bool has_next = task + 1 < task_end && slices == 1;
      const float* next = has_next ? a.state[(task + 1) / H] + (task + 1) % H * Dk * Dv : nullptr;
      step_head(tokens_of(head_of(a, b, h), n_tokens - n, n), begin, end, next, scratch + thread * scratch_floats);
    }
  });
}

void run(const LinearAttnArgs& a, const Exec& exec) {
  run_chunks(a, exec);
  run_steps(a, exec);
}

size_t workspace_bytes(const LinearAttnArgs& a, int n_threads) {
  const int64_t Dk = a.k[2];
  const auto bytes = [](int64_t floats) { return aligned_size(static_cast<size_t>(floats) * sizeof(float)); };
  const size_t chunks = bytes(ChunkMemory::floats(Dk, a.v[2], n_threads)) +
                        aligned_size(static_cast<size_t>(n_threads) * sizeof(LinearAttnHead));
  return std::max(chunks, bytes(n_threads * step_scratch_floats(Dk)));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(run);
HWY_EXPORT(workspace_bytes);
}  // namespace

void linear_attn_simd(const LinearAttnArgs& args, const Exec& exec) noexcept { HWY_DYNAMIC_DISPATCH(run)(args, exec); }

size_t linear_attn_simd_workspace_bytes(const LinearAttnArgs& args, int n_threads) {
  return HWY_DYNAMIC_DISPATCH(workspace_bytes)(args, n_threads);
}

}  // namespace linnet::ops
#endif
