// Transposition of matrices, with gathering of rows and narrowing on the way.
#include <algorithm>
#include <cstring>

#include "core/errors.h"
#include "core/task_list.h"
#include "core/text.h"
#include "ops/gemm/gemm_bwd.h"
#include "ops/gemm/gemm_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm/gemm_transpose_simd.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/gemm/gemm_columns-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops::gemm {
namespace HWY_NAMESPACE {
namespace {

HWY_INLINE void put(V v, float* to) { hn::StoreU(v, D(), to); }
HWY_INLINE void put(V v, bf16* to) {
  const hn::Rebind<uint16_t, D> d16;
  hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(round_bf16(D(), v))), d16, reinterpret_cast<uint16_t*>(to));
}

// Columns pass in chunks through a copy that lies in L1 whatever the rows' distance: those of a matrix 4096 bytes wide would
// drive each other out of it.
constexpr int64_t kChunk = 64;

template <class T>
void transpose_chunk(const TransposeBlock& b, int64_t column, T* to) {
  const int64_t n = std::min(kChunk, b.columns - column);
  alignas(64) float copy[kTransposeRows][kChunk];
  const float* rows[kTransposeRows];
  for (int64_t r = 0; r < kTransposeRows; ++r) {
    const float* from = b.rows[std::min(r, b.n - 1)] + column;  // beyond the last row: the last again
    rows[r] = copy[r];
    if (n == kChunk) std::copy_n(from, kChunk, copy[r]);
    else std::fill(std::copy_n(from, n, copy[r]), copy[r] + kChunk, 0.0f);
    for (int64_t c = 0; r < b.ahead && c < n; c += 16) hwy::Prefetch(b.rows[b.n + r] + column + c);
  }
  for (int64_t c = 0; c < n; c += 4) {
    const bool whole = b.n == kTransposeRows && c + 4 <= n;
    alignas(64) T part[4][kTransposeRows];
    T* const out = whole ? to + c * b.to_stride : part[0];
    const int64_t stride = whole ? b.to_stride : kTransposeRows;
    for (int64_t r = 0; r < kTransposeRows; r += kLanes) {
      const Columns v = load_columns(rows + r, c);
      for (int64_t j = 0; j < 4; ++j) put(v.v[j], out + j * stride + r);
    }
    for (int64_t j = 0; !whole && j < std::min<int64_t>(4, n - c); ++j)
      std::memcpy(to + (c + j) * b.to_stride, part[j], static_cast<size_t>(b.n) * sizeof(T));
  }
}

template <class T>
void transpose_of(const TransposeBlock& b) {
  T* to = reinterpret_cast<T*>(b.to);
  for (int64_t c = 0; c < b.columns; c += kChunk) transpose_chunk(b, c, to + c * b.to_stride);
}

void narrow(const float* from, int64_t n, bf16* to) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) put(hn::LoadU(D(), from + i), to + i);
  for (; i < n; ++i) to[i] = to_bf16(from[i]);
}

void transpose(const TransposeBlock& b) {
  if (b.to_dtype == DType::bf16) transpose_of<bf16>(b);
  else transpose_of<float>(b);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops::gemm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace gemm {

HWY_EXPORT(transpose);
HWY_EXPORT(narrow);
void transpose_block(const TransposeBlock& b) noexcept { HWY_DYNAMIC_DISPATCH(transpose)(b); }

}  // namespace gemm

namespace {

constexpr int64_t kColumnsPerTask = 64;

// Rows [r, r + n) of `from`, columns [c, c + columns). 16-bit numbers are moved as they are, f16 is made one by one.
void transpose_part(const ConstTensor& from, const Tensor& to, int64_t r, int64_t n, int64_t c, int64_t columns) {
  if (from.dtype == DType::f32 && to.dtype != DType::f16) {
    const float* rows[2 * gemm::kTransposeRows];
    const int64_t ahead = std::min(gemm::kTransposeRows, from[0] - r - n);
    for (int64_t i = 0; i < n + ahead; ++i) rows[i] = from.row<float>(r + i) + c;
    gemm::transpose_block({.rows = rows,
                           .n = n,
                           .ahead = ahead,
                           .columns = columns,
                           .to = to.data + (c * to.row_stride + r) * size_of(to.dtype),
                           .to_dtype = to.dtype,
                           .to_stride = to.row_stride});
    return;
  }
  uint16_t* out = reinterpret_cast<uint16_t*>(to.data) + c * to.row_stride + r;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < columns; ++j)
      out[j * to.row_stride + i] =
          from.dtype == DType::f32 ? to_f16(from.row<float>(r + i)[c + j]).bits
                                   : reinterpret_cast<const uint16_t*>(from.data)[(r + i) * from.row_stride + c + j];
}

}  // namespace

void copy_weights(std::span<const WeightCopies> matrices, const Exec& exec) {
  constexpr int64_t kRows = gemm::kTransposeRows, kColumns = 8 * kColumnsPerTask, kGrain = 4;
  for (const WeightCopies& m : matrices) {
    const DType type = m.w.dtype == DType::bf16 ? DType::bf16 : DType::f32;
    expect_tensor("copy_weights", "from", m.from, DType::f32, {-1, -1});
    expect_tensor("copy_weights", "w", m.w, type, {m.from[0], m.from[1]});
    expect_tensor("copy_weights", "w_t", m.w_t, type, {m.from[1], m.from[0]});
  }
  const auto across = [](const WeightCopies& m) { return (m.from[1] + kColumns - 1) / kColumns; };
  const auto tasks = [&](int64_t i) {
    const WeightCopies& m = matrices[static_cast<size_t>(i)];
    return (m.from[0] + kRows - 1) / kRows * across(m);
  };
  for_tasks(exec.pool, static_cast<int64_t>(matrices.size()), kGrain, tasks, [&](int64_t i, int64_t task) {
    const WeightCopies& m = matrices[static_cast<size_t>(i)];
    const int64_t r = task / across(m) * kRows, c = task % across(m) * kColumns;
    const int64_t rows = std::min(kRows, m.from[0] - r), columns = std::min(kColumns, m.from[1] - c);
    for (int64_t j = r; j < r + rows; ++j) {
      const float* from = m.from.row<float>(j) + c;
      if (m.w.dtype == DType::f32) std::copy_n(from, columns, m.w.row<float>(j) + c);
      else HWY_DYNAMIC_DISPATCH(gemm::narrow)(from, columns, m.w.row<bf16>(j) + c);
    }
    transpose_part(m.from, m.w_t, r, rows, c, columns);
  });
}

void transpose(ConstTensor from, Tensor to, const Exec& exec) {
  const auto is_float = [](DType t) { return t == DType::f32 || t == DType::bf16 || t == DType::f16; };
  expect_tensor("transpose", "from", from, is_float(from.dtype) ? from.dtype : DType::f32, {-1, -1});
  const bool narrows = from.dtype == DType::f32 && is_float(to.dtype);
  expect_tensor("transpose", "to", to, narrows ? to.dtype : from.dtype, {from[1], from[0]});
  const int64_t strips = (from[1] + kColumnsPerTask - 1) / kColumnsPerTask;
  const int64_t blocks = (from[0] + gemm::kTransposeRows - 1) / gemm::kTransposeRows;
  exec.pool.parallel_for(strips * blocks, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i / blocks * kColumnsPerTask, r = i % blocks * gemm::kTransposeRows;
      transpose_part(from, to, r, std::min(gemm::kTransposeRows, from[0] - r), c,
                     std::min(kColumnsPerTask, from[1] - c));
    }
  });
}

}  // namespace linnet::ops
#endif
