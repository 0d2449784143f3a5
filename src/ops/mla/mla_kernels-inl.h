// The two register-tiled f32 products that attention is made of. Included once per Highway target: the guard toggles.
// Every element of a result is one chain of multiply-adds in the order of k, whatever tile it falls into: rows and
// columns of a call can be regrouped without changing a bit.
#if defined(LINNET_OPS_MLA_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LINNET_OPS_MLA_KERNELS_INL_H_
#undef LINNET_OPS_MLA_KERNELS_INL_H_
#else
#define LINNET_OPS_MLA_KERNELS_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "ops/lanes-inl.h"
#include "ops/mla/mla_simd.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(Tag()));

// Accumulators fill the register file: 8 x 2 of 32 registers, 6 x 2 of 16. Dot products have 16 of 32, so that their sums make
// one vector, or 4 x 3 of 16.
constexpr int kSumRows = kLanes >= 16 ? 8 : kLanes >= 8 ? 6 : 4;
constexpr int kSumVectors = 2;
constexpr int kDotRows = 4;

// sum_rows: c[i, :] = c_scale[i] c[i, :] + sum_k a[i, k] b[k, :]      b [k, n], vectors along n; a turned when a_step > 1
template <class T>
struct SumRows {
  int64_t m, n, k;
  const float* a;  // element (i, k) at a + i * lda + k * a_step
  int64_t lda;
  const T* b;  // [k, n]
  int64_t ldb;
  float* c;  // [m, n]
  int64_t ldc;
  const float* c_scale;  // [m], or null: c is only written
  int64_t ahead = 0;     // from a row of b to the one that a coming call reads at its place: fetched along the way
  int64_t a_step = 1;
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
  for (int64_t k = 0; k < p.k; ++k, a += p.a_step, b += p.ldb) {
    Vec bk[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      bk[v] = load_f32(d, b + v * kLanes);
      hwy::Prefetch(b + p.ahead + v * kLanes);
    }
    for (int i = 0; i < kRows; ++i) {
      const Vec ai = hn::Set(d, a[i * p.lda]);
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
    sum = hn::MulAdd(hn::Set(d, p.a[row * p.lda + k * p.a_step]), load_f32_n(d, p.b + k * p.ldb + column, n), sum);
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
  const T* after =
      nullptr;  // rows that a coming call reads, as far apart as b's, or null: with them b is fetched ahead, and then they
};

// From far caches rows come at a quarter of their rate unless they are asked for so many bytes ahead.
constexpr int64_t kDotAheadBytes = 8 << 10;

// Fetches what lies kDotAheadBytes behind rows [column, column + columns) of b.
template <class T>
HWY_INLINE void prefetch_rows(const DotRows<T>& p, int64_t column, int64_t columns) {
  const int64_t row_bytes = p.ldb * static_cast<int64_t>(sizeof(T));
  const int64_t row = column + (kDotAheadBytes + row_bytes - 1) / row_bytes;
  const T* from = row < p.n ? p.b + row * p.ldb : p.after + (row - p.n) * p.ldb;
  const char* bytes = reinterpret_cast<const char*>(from);
  for (int64_t i = 0; i < columns * row_bytes; i += 64) hwy::Prefetch(bytes + i);
}

#if HWY_MAX_BYTES >= 64
// `columns` columns; those of the tile beyond them repeat the last.
template <int kRows, class T>
HWY_INLINE void dot_rows_tile(const DotRows<T>& p, int64_t row, int64_t column, int64_t columns) {
  constexpr int kColumns = 16 / kRows;
  const Tag d;
  const float* a = p.a + row * p.lda;
  const T* b[kColumns];
#pragma GCC unroll 16
  for (int j = 0; j < kColumns; ++j) b[j] = p.b + (column + std::min<int64_t>(j, columns - 1)) * p.ldb;
  Vec sum[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sum[i] = hn::Zero(d);
  int64_t k = 0;
  for (; k + kLanes <= p.k; k += kLanes) {
    Vec ak[kRows];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) ak[i] = in_register(d, hn::LoadU(d, a + i * p.lda + k));
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      const Vec bk = load_f32(d, b[j] + k);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) sum[i * kColumns + j] = hn::MulAdd(ak[i], bk, sum[i * kColumns + j]);
    }
  }
  if (k < p.k)
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      const Vec bk = load_f32_n(d, b[j] + k, p.k - k);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i)
        sum[i * kColumns + j] = hn::MulAdd(load_f32_n(d, a + i * p.lda + k, p.k - k), bk, sum[i * kColumns + j]);
    }
  alignas(64) float sums[16];
  hn::Store(sums_of_16(d, sum), d, sums);
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
    float* c = p.c + (row + i) * p.row_stride + column * p.column_stride;
    if (p.column_stride == 1 && columns == kColumns) std::memcpy(c, sums + i * kColumns, kColumns * sizeof(float));
    else
      for (int j = 0; j < columns; ++j) c[j * p.column_stride] = sums[i * kColumns + j];
  }
}

template <int kRows, class T>
void dot_rows_band(const DotRows<T>& p, int64_t row) {
  constexpr int64_t kColumns = 16 / kRows;
  for (int64_t column = 0; column < p.n; column += kColumns) {
    if (p.after && row == 0) prefetch_rows(p, column, kColumns);
    dot_rows_tile<kRows>(p, row, column, std::min(kColumns, p.n - column));
  }
}
#else
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
      const Vec ai = in_register(d, hn::LoadU(d, a + i * p.lda + k));
      for (int j = 0; j < kColumns; ++j) sum[i][j] = hn::MulAdd(ai, bk[j], sum[i][j]);
    }
  }
  if (k < p.k)
    for (int j = 0; j < kColumns; ++j) {
      const Vec bk = load_f32_n(d, b + j * p.ldb + k, p.k - k);
      for (int i = 0; i < kRows; ++i) sum[i][j] = hn::MulAdd(load_f32_n(d, a + i * p.lda + k, p.k - k), bk, sum[i][j]);
    }
  for (int j = 0; j < kColumns; ++j)
    for (int i = 0; i < kRows; i += 4) {
      const auto row_sum = [&](int n) -> const Vec& { return sum[std::min(i + n, kRows - 1)][j]; };
      alignas(16) float c[4];
      store_sums(d, row_sum(0), row_sum(1), row_sum(2), row_sum(3), c);
      for (int n = 0; n < std::min(4, kRows - i); ++n)
        p.c[(row + i + n) * p.row_stride + (column + j) * p.column_stride] = c[n];
    }
}

template <int kRows, class T>
void dot_rows_band(const DotRows<T>& p, int64_t row) {
  int64_t column = 0;
  for (; column + 3 <= p.n; column += 3) {
    if (p.after && row == 0) prefetch_rows(p, column, 3);
    dot_rows_tile<kRows, 3>(p, row, column);
  }
  for (; column < p.n; ++column) dot_rows_tile<kRows, 1>(p, row, column);
}
#endif

// Bands of rows outside, columns inside: a band of a stays in L1 while b streams past.
template <class T>
void dot_rows(const DotRows<T>& p) {
  int64_t row = 0;
  for (; row + kDotRows <= p.m; row += kDotRows) dot_rows_band<kDotRows>(p, row);
  if (row + 2 <= p.m) dot_rows_band<2>(p, row), row += 2;
  for (; row < p.m; ++row) dot_rows_band<1>(p, row);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#endif
