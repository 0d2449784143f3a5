// Products against weights stored [K, N]: vectors along n, x(m, k) broadcast, w widened in registers; nothing is
// packed.
#include <algorithm>

#include "ops/gemm/gemm_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm/gemm_in_out_simd.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops::gemm {
namespace HWY_NAMESPACE {
namespace {

using namespace ops::HWY_NAMESPACE;  // lanes-inl.h
using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
constexpr int64_t kLanes = hn::MaxLanes(D());
constexpr int kBlock = kLanes == 16 ? 16 : 8;  // accumulators: half the registers
constexpr int64_t kRowsAhead = 16;             // of w, prefetched: each row is far from the one before

// kM rows of x from m0 against kN vectors of columns from n; `rest` < kLanes columns when the vector is partial (kN ==
// 1), else 0.
template <int kM, int kN, bool kPartial, class T>
void multiply_block(const Strip& a, int64_t m0, int64_t n, int64_t rest) {
  const D d;
  const float* x[kM];
  for (int m = 0; m < kM; ++m) x[m] = a.x[m0 + m];
  const T* w = reinterpret_cast<const T*>(a.w) + n;
  V sum[kM][kN];
#pragma GCC unroll 16
  for (int m = 0; m < kM; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) sum[m][j] = hn::Zero(d);
  for (int64_t k = 0; k < a.k; ++k, w += a.w_stride) {
    V wide[kN];
#pragma GCC unroll 16
    for (int j = 0; j < kN; ++j) {
      if constexpr (kPartial) {
        wide[j] = load_f32_n(d, w, rest);
      } else {
        hwy::Prefetch(w + kRowsAhead * a.w_stride + j * kLanes);
        wide[j] = load_f32(d, w + j * kLanes);
      }
    }
#pragma GCC unroll 16
    for (int m = 0; m < kM; ++m) {
      const V v = hn::Set(d, x[m][k]);
#pragma GCC unroll 16
      for (int j = 0; j < kN; ++j) sum[m][j] = hn::MulAdd(wide[j], v, sum[m][j]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < kM; ++m) {
    float* y = a.y[m0 + m] + n;
    if constexpr (kPartial) {
      store_n(a.accumulate ? hn::Add(load_f32_n(d, y, rest), sum[m][0]) : sum[m][0], d, y, rest);
    } else {
#pragma GCC unroll 16
      for (int j = 0; j < kN; ++j) {
        float* at = y + j * kLanes;
        hn::StoreU(a.accumulate ? hn::Add(hn::LoadU(d, at), sum[m][j]) : sum[m][j], d, at);
      }
    }
  }
}

template <int kM, class T>
void multiply_rows(const Strip& a, int64_t m0) {
  constexpr int kN = kBlock / kM;
  int64_t n = 0;
  for (; n + kN * kLanes <= a.n; n += kN * kLanes) multiply_block<kM, kN, false, T>(a, m0, n, 0);
  if constexpr (kN > 4)
    for (; n + 4 * kLanes <= a.n; n += 4 * kLanes) multiply_block<kM, 4, false, T>(a, m0, n, 0);
  if constexpr (kN > 1)
    for (; n + kLanes <= a.n; n += kLanes) multiply_block<kM, 1, false, T>(a, m0, n, 0);
  if (n < a.n) multiply_block<kM, 1, true, T>(a, m0, n, a.n - n);
}

template <class T>
void multiply_of(const Strip& a) {
  int64_t m = 0;
  for (; m + 8 <= a.m; m += 8) multiply_rows<8, T>(a, m);
  for (; m + 4 <= a.m; m += 4) multiply_rows<4, T>(a, m);
  for (; m + 2 <= a.m; m += 2) multiply_rows<2, T>(a, m);
  if (m < a.m) multiply_rows<1, T>(a, m);
}

void multiply_columns(const Strip& a) {
  switch (a.w_dtype) {
    case DType::bf16: multiply_of<bf16>(a); break;
    case DType::f16: multiply_of<f16>(a); break;
    default: multiply_of<float>(a);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops::gemm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops::gemm {

HWY_EXPORT(multiply_columns);
void multiply_strip_in_out(const Strip& a) noexcept { HWY_DYNAMIC_DISPATCH(multiply_columns)(a); }

}  // namespace linnet::ops::gemm
#endif
