// The absorbed way: its arithmetic, in the products of mla_kernels-inl.h and the softmax of mla_softmax-inl.h.
#include <algorithm>
#include <limits>

#include "ops/mla/mla_absorbed.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/mla/mla_absorbed_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/mla/mla_softmax-inl.h"

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

void absorb_columns(const MlaChunk& c, int64_t h, int64_t r0, int64_t r1) {
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

void release_columns(const MlaChunk& c, int64_t h, int64_t d0, int64_t d1) {
  switch (c.args->kv_b.dtype) {
    case DType::bf16: return release_slice<bf16>(c, h, d0, d1);
    case DType::f16: return release_slice<f16>(c, h, d0, d1);
    default: return release_slice<float>(c, h, d0, d1);
  }
}

// The block that the task after this one begins with; of the last task its own.
template <class T>
const T* first_rows(const MlaChunk& c, int64_t i) {
  const MlaTask& task = c.tasks[std::min(i, c.n_tasks - 1)];
  return cache_row<T>(c.groups[task.group].blocks, task.split * kSplit, c.args->R + c.args->Dr);
}

template <class T>
void attend_split(const MlaChunk& c, int64_t i_task, float* scratch) {
  const MlaArgs& a = *c.args;
  const MlaTask& task = c.tasks[i_task];
  const MlaPartial to = c.partial(i_task);
  const MlaGroup& g = c.groups[task.group];
  const int64_t E = a.R + a.Dr, begin = task.split * kSplit;
  const int64_t all = c.limit(g, g.row + g.rows - 1), end = std::min(begin + kSplit, all);
  std::fill_n(to.max, g.rows, -std::numeric_limits<float>::infinity());
  std::fill_n(to.sum, g.rows, 0.0f);
  std::fill_n(to.y, g.rows * a.R, 0.0f);
  int64_t limit[kGroupRows];
  const SoftmaxRows softmax{g.rows, limit, scratch, to.max, to.sum, scratch + kGroupRows * kMlaBlock};
  for (int64_t key = begin; key < end; key += kMlaBlock) {
    const int64_t keys = std::min(kMlaBlock, end - key);
    const T* rows = cache_row<T>(g.blocks, key, E);
    const T* next = key + kMlaBlock < end ? cache_row<T>(g.blocks, key + kMlaBlock, E) : first_rows<T>(c, i_task + 1);
    dot_rows<T>({g.rows, keys, E, c.q + g.row * E, E, rows, E, scratch, kMlaBlock, 1, next});
    for (int64_t i = 0; i < g.rows; ++i) limit[i] = std::clamp<int64_t>(c.limit(g, g.row + i) - key, 0, keys);
    softmax_block(softmax, a.scale);
    gather_values<T>(softmax, {rows, E, a.R}, to.y, a.R);
  }
}

void attend_task(const MlaChunk& c, int64_t i, float* scratch) {
  if (c.args->cache_dtype == DType::bf16) attend_split<bf16>(c, i, scratch);
  else attend_split<float>(c, i, scratch);
}

// Adds the splits in flight to one row's result, in their order: both are brought to the larger max. Every row sees key
// 0, so after its first split the max is above -inf.
void merge_row(const MlaChunk& c, int64_t row) {
  const Tag d;
  const int64_t R = c.args->R;
  const auto group_of = [&](const MlaTask& task) -> const MlaGroup& { return c.groups[task.group]; };
  const MlaTask* first = std::partition_point(c.tasks, c.tasks + c.n_tasks, [&](const MlaTask& task) {
    return group_of(task).row + group_of(task).rows <= row;
  });
  for (int64_t i = first - c.tasks; i < c.n_tasks; ++i) {
    const MlaGroup& g = group_of(c.tasks[i]);
    if (row < g.row) break;
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
HWY_EXPORT(absorb_columns);
HWY_EXPORT(release_columns);
HWY_EXPORT(attend_task);
HWY_EXPORT(merge_row);

void mla_absorb(const MlaChunk& c, int64_t head, int64_t r0, int64_t r1) noexcept {
  HWY_DYNAMIC_DISPATCH(absorb_columns)(c, head, r0, r1);
}
void mla_attend(const MlaChunk& c, int64_t task, float* scratch) noexcept {
  HWY_DYNAMIC_DISPATCH(attend_task)(c, task, scratch);
}
void mla_merge(const MlaChunk& c, int64_t row) noexcept { HWY_DYNAMIC_DISPATCH(merge_row)(c, row); }
void mla_release(const MlaChunk& c, int64_t head, int64_t d0, int64_t d1) noexcept {
  HWY_DYNAMIC_DISPATCH(release_columns)(c, head, d0, d1);
}

}  // namespace linnet::ops
#endif
