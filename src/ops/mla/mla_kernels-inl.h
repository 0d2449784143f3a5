// The two register-tiled f32 products that attention is made of, and the softmax between them. Included once per Highway target:
// the guard toggles. Every element of a result is one chain of multiply-adds in the order of k, whatever tile it falls into: rows and
// columns of a call can be regrouped without changing a bit.
#if defined(LINNET_OPS_MLA_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_OPS_MLA_KERNELS_INL_H_
#undef LINNET_OPS_MLA_KERNELS_INL_H_
#else
#define LINNET_OPS_MLA_KERNELS_INL_H_
#endif

#include <algorithm>
#include <limits>

#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"
#include "ops/mla/mla_simd.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(Tag()));

// Accumulators fill the register file: 8 x 2 or 8 x 3 of 32 registers, 6 x 2 or 4 x 3 of 16.
constexpr int kSumRows = kLanes >= 16 ? 8 : kLanes >= 8 ? 6 : 4;
constexpr int kSumVectors = 2;
constexpr int kDotRows = kLanes >= 16 ? 8 : 4;
constexpr int kDotColumns = 3;

// sum_rows: c[i, :] = c_scale[i] c[i, :] + sum_k a[i, k] b[k, :]      b [k, n], vectors along n
template <class T>
struct SumRows {
  int64_t m, n, k;
  const float* a;  // [m, k]
  int64_t lda;
  const T* b;  // [k, n]
  int64_t ldb;
  float* c;  // [m, n]
  int64_t ldc;
  const float* c_scale;  // [m], or null: c is only written
};

template <int kRows, int kVectors, class T>
HWY_INLINE void sum_rows_tile(const SumRows<T>& p, int64_t row, int64_t column) {
  const Tag d;
  const float* a = p.a + row * p.lda;
  const T* b = p.b + column;
  float* c = p.c + row * p.ldc + column;
  Vec sum[kRows][kVectors];
  for (int i = 0; i < kRows; ++i)
    for (int v = 0; v < kVectors; ++v)
      sum[i][v] =
          p.c_scale ? hn::Mul(hn::Set(d, p.c_scale[row + i]), hn::LoadU(d, c + i * p.ldc + v * kLanes)) : hn::Zero(d);
  for (int64_t k = 0; k < p.k; ++k, b += p.ldb) {
    Vec bk[kVectors];
    for (int v = 0; v < kVectors; ++v) bk[v] = load_f32(d, b + v * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const Vec ai = hn::Set(d, a[i * p.lda + k]);
      for (int v = 0; v < kVectors; ++v) sum[i][v] = hn::MulAdd(ai, bk[v], sum[i][v]);
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sum[i][v], d, c + i * p.ldc + v * kLanes);
}

// The last n < kLanes columns of one row.
template <class T>
void sum_rows_rest(const SumRows<T>& p, int64_t row, int64_t column) {
  const Tag d;
  const int64_t n = p.n - column;
  float* c = p.c + row * p.ldc + column;
  Vec sum = p.c_scale ? hn::Mul(hn::Set(d, p.c_scale[row]), load_f32_n(d, c, n)) : hn::Zero(d);
  for (int64_t k = 0; k < p.k; ++k)
    sum = hn::MulAdd(hn::Set(d, p.a[row * p.lda + k]), load_f32_n(d, p.b + k * p.ldb + column, n), sum);
  store_n(sum, d, c, n);
}

template <int kRows, class T>
void sum_rows_band(const SumRows<T>& p, int64_t row) {
  int64_t column = 0;
  for (; column + kSumVectors * kLanes <= p.n; column += kSumVectors * kLanes)
    sum_rows_tile<kRows, kSumVectors>(p, row, column);
  for (; column + kLanes <= p.n; column += kLanes) sum_rows_tile<kRows, 1>(p, row, column);
  if (column < p.n)
    for (int i = 0; i < kRows; ++i) sum_rows_rest(p, row + i, column);
}

template <class T>
void sum_rows(const SumRows<T>& p) {
  int64_t row = 0;
  for (; row + kSumRows <= p.m; row += kSumRows) sum_rows_band<kSumRows>(p, row);
  if (row + 4 <= p.m) sum_rows_band<4>(p, row), row += 4;
  if (row + 2 <= p.m) sum_rows_band<2>(p, row), row += 2;
  for (; row < p.m; ++row) sum_rows_band<1>(p, row);
}

// dot_rows: c[i, j] = sum_k a[i, k] b[j, k]      b [n, k], vectors along k, lanes added at the end
template <class T>
struct DotRows {
  int64_t m, n, k;
  const float* a;  // [m, k]
  int64_t lda;
  const T* b;  // [n, k]
  int64_t ldb;
  float* c;  // element (i, j) at c + i * row_stride + j * column_stride
  int64_t row_stride, column_stride;
};

template <int kRows, int kColumns, class T>
HWY_INLINE void dot_rows_tile(const DotRows<T>& p, int64_t row, int64_t column) {
  const Tag d;
  const float* a = p.a + row * p.lda;
  const T* b = p.b + column * p.ldb;
  Vec sum[kRows][kColumns];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kColumns; ++j) sum[i][j] = hn::Zero(d);
  int64_t k = 0;
  for (; k + kLanes <= p.k; k += kLanes) {
    Vec bk[kColumns];
    for (int j = 0; j < kColumns; ++j) bk[j] = load_f32(d, b + j * p.ldb + k);
    for (int i = 0; i < kRows; ++i) {
      const Vec ai = hn::LoadU(d, a + i * p.lda + k);
      for (int j = 0; j < kColumns; ++j) sum[i][j] = hn::MulAdd(ai, bk[j], sum[i][j]);
    }
  }
  if (k < p.k)
    for (int j = 0; j < kColumns; ++j) {
      const Vec bk = load_f32_n(d, b + j * p.ldb + k, p.k - k);
      for (int i = 0; i < kRows; ++i) sum[i][j] = hn::MulAdd(load_f32_n(d, a + i * p.lda + k, p.k - k), bk, sum[i][j]);
    }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kColumns; ++j)
      p.c[(row + i) * p.row_stride + (column + j) * p.column_stride] = hn::GetLane(hn::SumOfLanes(d, sum[i][j]));
}

template <int kRows, class T>
void dot_rows_band(const DotRows<T>& p, int64_t row) {
  int64_t column = 0;
  for (; column + kDotColumns <= p.n; column += kDotColumns) dot_rows_tile<kRows, kDotColumns>(p, row, column);
  for (; column < p.n; ++column) dot_rows_tile<kRows, 1>(p, row, column);
}

// Bands of rows outside, columns inside: a band of a stays in L1 while b streams past.
template <class T>
void dot_rows(const DotRows<T>& p) {
  int64_t row = 0;
  for (; row + kDotRows <= p.m; row += kDotRows) dot_rows_band<kDotRows>(p, row);
  if (row + 4 <= p.m) dot_rows_band<4>(p, row), row += 4;
  if (row + 2 <= p.m) dot_rows_band<2>(p, row), row += 2;
  for (; row < p.m; ++row) dot_rows_band<1>(p, row);
}

// The online softmax of some rows. After each block of keys: max is the largest scaled score so far, sum the total of
// exp(score - max), and what was gathered before must be multiplied by factor.
struct SoftmaxRows {
  int64_t rows;
  int64_t* limit;             // [rows] keys of the block that each row sees, 0 to kMlaBlock, ascending
  float* score;               // [rows, kMlaBlock]
  float *max, *sum, *factor;  // [rows]
};

// score: products in, probabilities out, relative to the new max; columns at and past a row's limit are neither read nor meant.
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

// c[i, :] = factor[i] c[i, :] + sum over the keys j < limit[i] of score[i, j] values[j, :]. A row's own limit ends its sum, so a key
// that a row must not see does not touch it, not even as 0 * NaN: rows of a band share the keys that all of them see, and each
// goes on alone from there, in the same order of j.
template <class T>
void gather_values(const SoftmaxRows& s, const T* values, int64_t stride, int64_t n, float* c, int64_t ldc) {
  constexpr float kOne = 1;
  int64_t row = 0;
  while (row < s.rows && s.limit[row] == 0) ++row;
  for (int64_t m; row < s.rows; row += m) {
    m = std::min<int64_t>(kSumRows, s.rows - row);
    const int64_t shared = s.limit[row];
    sum_rows<T>(
        {m, n, shared, s.score + row * kMlaBlock, kMlaBlock, values, stride, c + row * ldc, ldc, s.factor + row});
    for (int64_t i = row; i < row + m; ++i)
      if (s.limit[i] > shared)
        sum_rows<T>({1, n, s.limit[i] - shared, s.score + i * kMlaBlock + shared, kMlaBlock, values + shared * stride,
                     stride, c + i * ldc, ldc, &kOne});
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#endif
