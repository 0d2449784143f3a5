// Transposition of matrices, with gathering of rows and narrowing on the way.
#include <algorithm>
#include <cstring>

#include "core/errors.h"
#include "core/text.h"
#include "ops/gemm/gemm_bwd.h"
#include "ops/gemm/gemm_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm/gemm_transpose_simd.cpp"
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

// Four columns of kTransposeRows rows to[j][0 .. kTransposeRows).
template <class T>
HWY_INLINE void transpose_columns(const float* const* rows, int64_t column, T* to, int64_t stride) {
  for (int64_t r = 0; r < kTransposeRows; r += kLanes) {
    const Columns c = load_columns(rows + r, column);
    for (int64_t j = 0; j < 4; ++j) put(c.v[j], to + j * stride + r);
  }
}

template <class T>
void transpose_of(const TransposeBlock& b) {
  const float* rows[kTransposeRows];  // beyond the last row: the last again
  for (int64_t r = 0; r < kTransposeRows; ++r) rows[r] = b.rows[std::min(r, b.n - 1)];
  T* to = reinterpret_cast<T*>(b.to);
  const int64_t whole = b.columns / 4 * 4;
  alignas(64) T part[4][kTransposeRows];
  const auto copy = [&](int64_t column, int64_t columns) {
    for (int64_t j = 0; j < columns; ++j)
      std::memcpy(to + (column + j) * b.to_stride, part[j], static_cast<size_t>(b.n) * sizeof(T));
  };
  for (int64_t column = 0; column < whole; column += 4) {
    if (b.n == kTransposeRows) {
      transpose_columns(rows, column, to + column * b.to_stride, b.to_stride);
    } else {
      transpose_columns(rows, column, part[0], kTransposeRows);
      copy(column, 4);
    }
  }
  if (whole == b.columns) return;
  float rest[kTransposeRows][4] = {};
  for (int64_t r = 0; r < kTransposeRows; ++r) {
    std::copy(rows[r] + whole, rows[r] + b.columns, rest[r]);
    rows[r] = rest[r];
  }
  transpose_columns(rows, 0, part[0], kTransposeRows);
  copy(whole, b.columns - whole);
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
void transpose_block(const TransposeBlock& b) noexcept { HWY_DYNAMIC_DISPATCH(transpose)(b); }

}  // namespace gemm

namespace {

constexpr int64_t kColumnsPerTask = 64;

// Rows [r, r + n) of `from`, columns [c, c + columns). 16-bit numbers are moved as they are, f16 is made one by one.
void transpose_part(const ConstTensor& from, const Tensor& to, int64_t r, int64_t n, int64_t c, int64_t columns) {
  if (from.dtype == DType::f32 && to.dtype != DType::f16) {
    const float* rows[gemm::kTransposeRows];
    for (int64_t i = 0; i < n; ++i) rows[i] = from.row<float>(r + i) + c;
    gemm::transpose_block({.rows = rows,
                           .n = n,
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
