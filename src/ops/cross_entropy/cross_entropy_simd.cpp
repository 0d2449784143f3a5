// Softmax of one token's logits with Highway vectors: the largest, the sum of exponentials (kept in place of the logits
// where a gradient is wanted), the gradient.
#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cross_entropy/cross_entropy_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cross_entropy/cross_entropy_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

#ifndef LINNET_OPS_CROSS_ENTROPY_SPAN  // what the targets share, once
#define LINNET_OPS_CROSS_ENTROPY_SPAN
namespace linnet::ops {
constexpr int64_t kSumSpan = 4096;  // exponentials summed in f32 before their sum is added in double
}
#endif

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

float largest_of(const float* x, int64_t n) {
  const D d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  V m0 = hn::Set(d, x[0]), m1 = m0;
  int64_t i = 0;
  for (; i + 2 * L <= n; i += 2 * L) {
    m0 = hn::Max(m0, hn::LoadU(d, x + i));
    m1 = hn::Max(m1, hn::LoadU(d, x + i + L));
  }
  float m = hn::GetLane(hn::MaxOfLanes(d, hn::Max(m0, m1)));
  for (; i < n; ++i) m = std::max(m, x[i]);
  return m;
}

// sum exp(x - largest) over n <= kSumSpan values; with keep the exponentials replace x.
template <bool keep>
double sum_exp_span(float* x, int64_t n, float largest) {
  const D d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  const V shift = hn::Set(d, largest);
  V sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L)
    for (int64_t j = 0; j < 4; ++j) {
      const V e = exp_f32(d, hn::Sub(hn::LoadU(d, x + i + j * L), shift));
      if constexpr (keep) hn::StoreU(e, d, x + i + j * L);
      sum[j] = hn::Add(sum[j], e);
    }
  for (; i < n; i += L) {
    const int64_t rest = std::min(L, n - i);
    alignas(64) float lanes[hn::MaxLanes(D())];
    hn::Store(exp_f32(d, hn::Sub(load_f32_n(d, x + i, rest), shift)), d, lanes);
    for (int64_t j = rest; j < L; ++j) lanes[j] = 0;
    const V e = hn::Load(d, lanes);
    if constexpr (keep) store_n(e, d, x + i, rest);
    sum[0] = hn::Add(sum[0], e);
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]))));
}

template <bool keep>
double sum_exp(float* x, int64_t n, float largest) {
  double sum = 0;
  for (int64_t i = 0; i < n; i += kSumSpan) sum += sum_exp_span<keep>(x + i, std::min(kSumSpan, n - i), largest);
  return sum;
}

RowLoss softmax(const LogitsRow& row) {
  float* x = row.logits;
  const float largest = largest_of(x, row.n), at_target = row.target < 0 ? 0 : x[row.target];
  // A factor of zero: no exponentials are kept, the gradient is zero also where they are not finite.
  const bool keep = row.wants_gradient && row.factor != 0;
  const double sum = keep ? sum_exp<true>(x, row.n, largest) : sum_exp<false>(x, row.n, largest);
  const double log_sum = std::log(sum), lse = largest + log_sum;
  if (keep) {
    const auto factor = hn::Set(D(), static_cast<float>(row.factor * (1 + 2 * double{row.z_loss} * lse) / sum));
    map_f32(
        row.n, x, [&](auto e) HWY_ATTR { return hn::Mul(e, factor); }, static_cast<const float*>(x));
    x[row.target] -= row.factor;
  } else if (row.wants_gradient) {
    std::fill_n(x, row.n, 0.0f);
  }
  const double nll = row.target < 0 ? 0 : double{largest} - at_target + log_sum;
  return {static_cast<float>(nll), static_cast<float>(lse)};
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {

HWY_EXPORT(softmax);
RowLoss softmax_row(const LogitsRow& row) noexcept { return HWY_DYNAMIC_DISPATCH(softmax)(row); }

}  // namespace linnet::ops
#endif
