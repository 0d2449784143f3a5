// The recurrent core with portable vectors, f32: how the work is shared between threads. The work itself is in the -inl.h files.
#include "ops/linear_attn/linear_attn_simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear_attn/linear_attn_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/linear_attn/linear_attn_simd_step-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops::linear_attn::HWY_NAMESPACE {

// Where there are fewer heads than threads, the value columns of a head are shared out as well: they do not see each other.
void run_steps(const LinearAttnArgs& a, const Exec& exec) {
  const int64_t B = a.seq_start[0] - 1, H = a.v[1], Dk = a.k[2], Dv = a.v[2];
  const int32_t* start = a.seq_start.as<int32_t>();
  int64_t stepped = 0;
  for (int64_t b = 0; b < B; ++b) stepped += start[b + 1] > start[b];
  if (stepped == 0) return;
  const int64_t n_threads = exec.pool.size(), units = padded(Dv) / 16;  // a unit: one cache line of every state row
  const int64_t slices = std::clamp<int64_t>((n_threads + stepped * H - 1) / (stepped * H), 1, units);
  Workspace::Scope scope(exec.workspace);
  const int64_t scratch_floats = step_scratch_floats(Dk);
  float* scratch = exec.workspace.take<float>(n_threads * scratch_floats);
  exec.pool.parallel_for(B * H * slices, 1, [&](int64_t task_begin, int64_t task_end, int thread) {
    for (int64_t task = task_begin; task < task_end; ++task) {
      const int64_t slice = task % slices, h = task / slices % H, b = task / slices / H;
      if (start[b] == start[b + 1]) continue;
      const int64_t begin = units * slice / slices * 16, end = std::min(Dv, units * (slice + 1) / slices * 16);
      step_head(head_of(a, b, h), begin, end, scratch + thread * scratch_floats);
    }
  });
}

void run(const LinearAttnArgs& a, const Exec& exec) { run_steps(a, exec); }

size_t workspace_bytes(const LinearAttnArgs& a, int n_threads) {
  return aligned_size(static_cast<size_t>(n_threads * step_scratch_floats(a.k[2])) * sizeof(float));
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
