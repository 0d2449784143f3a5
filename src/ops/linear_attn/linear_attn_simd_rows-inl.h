// Rows of floats in vectors, with tails; the decay factors of a token. Included once per instruction set.
#if defined(LINNET_LINEAR_ATTN_ROWS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_LINEAR_ATTN_ROWS_INL
#undef LINNET_LINEAR_ATTN_ROWS_INL
#else
#define LINNET_LINEAR_ATTN_ROWS_INL
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"
#include "ops/linear_attn/linear_attn_simd.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

using F = hn::ScalableTag<float>;
using Vec = hn::Vec<F>;

constexpr int64_t lanes() { return static_cast<int64_t>(HWY_LANES(float)); }

// Scratch rows are padded to the widest vector of any instruction set, so that they need no tails.
constexpr int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

// Elements [i, i + lanes) of a row that has `size`; what lies beyond is read as 0 and never touched.
HWY_INLINE Vec load_row(const float* row, int64_t i, int64_t size) {
  if (i + lanes() <= size) return hn::LoadU(F(), row + i);
  return i < size ? load_f32_n(F(), row + i, size - i) : hn::Zero(F());
}
HWY_INLINE void store_row(Vec v, float* row, int64_t i, int64_t size) {
  if (i + lanes() <= size) hn::StoreU(v, F(), row + i);
  else if (i < size) store_n(v, F(), row + i, size - i);
}

// The rows of a head lie further apart than the pages that hardware prefetchers stay in: without asking, each is waited for.
constexpr int64_t kPrefetchRows = 8;
HWY_INLINE void prefetch_row(const float* row, int64_t size) {
  for (int64_t i = 0; i < size; i += 16) hwy::Prefetch(row + i);
}

HWY_INLINE float sum_lanes(Vec v) { return hn::GetLane(hn::SumOfLanes(F(), v)); }

// The decay factors of token t, [padded(Dk)]: in [0, 1], 0 for -inf, NaN for NaN; ones beyond Dk.
HWY_INLINE void decay_row(const LinearAttnHead& x, int64_t t, float* decay) {
  const F f;
  const float* g = x.log_decay ? x.log_decay + t * x.decay_stride : nullptr;
  const Vec same = g ? exp_f32(f, hn::Set(f, g[0])) : hn::Set(f, 1.0f);
  for (int64_t i = 0; i < padded(x.Dk); i += lanes())
    hn::StoreU(x.decay_per_channel ? exp_f32(f, load_row(g, i, x.Dk)) : same, f, decay + i);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();
#endif
