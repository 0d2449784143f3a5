// The online softmax over a block of keys, and the sum of the values it weighs. Included once per Highway target: the
// guard toggles.
#if defined(LINNET_OPS_MLA_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_OPS_MLA_SOFTMAX_INL_H_
#undef LINNET_OPS_MLA_SOFTMAX_INL_H_
#else
#define LINNET_OPS_MLA_SOFTMAX_INL_H_
#endif

#include <limits>

#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/mla/mla_kernels-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// The online softmax of some rows. After each block of keys: max is the largest scaled score so far, sum the total of
// exp(score - max), and what was gathered before must be multiplied by factor.
struct SoftmaxRows {
  int64_t rows;
  int64_t* limit;             // [rows] keys of the block that each row sees, 0 to kMlaBlock, ascending
  float* score;               // [rows, kMlaBlock]
  float *max, *sum, *factor;  // [rows]
};

// score: products in, probabilities out, relative to the new max; columns at and past a row's limit are neither read
// nor meant.
inline void softmax_block(const SoftmaxRows& s, float scale) {
  const Tag d;
  const Vec lowest = hn::Set(d, -std::numeric_limits<float>::infinity()), vscale = hn::Set(d, scale);
  for (int64_t i = 0; i < s.rows; ++i) {
    float* score = s.score + i * kMlaBlock;
    Vec top = lowest;
    for (int64_t j = 0; j < s.limit[i]; j += kLanes) {
      const Vec scaled = hn::Mul(hn::Load(d, score + j), vscale);
      hn::Store(scaled, d, score + j);
      const auto seen = hn::FirstN(d, static_cast<size_t>(std::min(kLanes, s.limit[i] - j)));
      top = hn::Max(top, hn::IfThenElse(seen, scaled, lowest));
    }
    s.factor[i] = s.max[i];
    s.max[i] = std::max(s.max[i], hn::GetLane(hn::MaxOfLanes(d, top)));
  }
  map_f32(
      s.rows, s.factor,
      [&](auto before, auto now)
          HWY_ATTR { return hn::IfThenElse(hn::Eq(before, now), hn::Set(d, 1.0f), exp_f32(d, hn::Sub(before, now))); },
      static_cast<const float*>(s.factor), static_cast<const float*>(s.max));
  for (int64_t i = 0; i < s.rows; ++i) {
    float* score = s.score + i * kMlaBlock;
    const Vec max = hn::Set(d, s.max[i]);
    Vec total = hn::Zero(d);
    for (int64_t j = 0; j < s.limit[i]; j += kLanes) {
      const auto seen = hn::FirstN(d, static_cast<size_t>(std::min(kLanes, s.limit[i] - j)));
      const Vec p = hn::IfThenElseZero(seen, exp_f32(d, hn::Sub(hn::Load(d, score + j), max)));
      hn::Store(p, d, score + j);
      total = hn::Add(total, p);
    }
    s.sum[i] = s.sum[i] * s.factor[i] + hn::GetLane(hn::SumOfLanes(d, total));
  }
}

// The values of a block of keys.
template <class T>
struct BlockValues {
  const T* rows;  // [kMlaBlock, width]
  int64_t stride, width;
  int64_t ahead = 0;  // as in SumRows
};

// y[i, :] = factor[i] y[i, :] + sum over the keys j < limit[i] of score[i, j] rows[j, :]. A row's own limit ends its
// sum, so a key that a row must not see does not touch it, not even as 0 * NaN: rows of a band share the keys that all
// of them see, and each goes on alone from there, in the same order of j.
template <class T>
void gather_values(const SoftmaxRows& s, const BlockValues<T>& v, float* y, int64_t y_stride) {
  constexpr float kOne = 1;
  int64_t row = 0;
  while (row < s.rows && s.limit[row] == 0) ++row;
  for (int64_t m; row < s.rows; row += m) {
    m = std::min<int64_t>(kSumRows, s.rows - row);
    const int64_t shared = s.limit[row];
    const float* p = s.score + row * kMlaBlock;
    float* to = y + row * y_stride;
    sum_rows<T>({m, v.width, shared, p, kMlaBlock, v.rows, v.stride, to, y_stride, s.factor + row, v.ahead});
    for (int64_t i = 0; i < m; ++i) {
      const int64_t more = s.limit[row + i] - shared;
      if (more > 0)
        sum_rows<T>({1, v.width, more, p + i * kMlaBlock + shared, kMlaBlock, v.rows + shared * v.stride, v.stride,
                     to + i * y_stride, y_stride, &kOne});
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#endif
