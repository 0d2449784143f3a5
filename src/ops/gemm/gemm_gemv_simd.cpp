// Products of few rows, bound by reading the weights: dot products along k, several rows of w at once, w widened in
// registers.
#include <algorithm>

#include "ops/gemm/gemm_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm/gemm_gemv_simd.cpp"
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

constexpr int kStreams =
    kLanes == 16 ? 4 : 2;  // rows of w at once: times four rows of x, half the registers accumulate

// kR rows of w, `apart` elements from each other, against kM rows of x; `ahead` (or null) is fetched meanwhile. One accumulator vector per product, so that a
// row's bits do not depend on how many rows run beside it.
template <int kM, int kR, class T>
void dot_rows(const Strip& a, int64_t m0, const T* w, const T* ahead, int64_t apart, int64_t n, int64_t n_apart) {
  const D d;
  const float* x[kM];
  for (int m = 0; m < kM; ++m) x[m] = a.x[m0 + m];
  V sum[kR][kM];
#pragma GCC unroll 4
  for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) sum[r][m] = hn::Zero(d);
  int64_t k = 0;
  for (; k + kLanes <= a.k; k += kLanes) {
    V wide[kR];
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) {
      if (ahead) hwy::Prefetch(ahead + r * apart + k);
      wide[r] = load_f32(d, w + r * apart + k);
    }
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) {
      const V v = in_register(d, hn::LoadU(d, x[m] + k));
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r) sum[r][m] = hn::MulAdd(wide[r], v, sum[r][m]);
    }
  }
  if (k < a.k) {
    const int64_t rest = a.k - k;
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) {
      const V wide = load_f32_n(d, w + r * apart + k, rest);
#pragma GCC unroll 4
      for (int m = 0; m < kM; ++m) sum[r][m] = hn::MulAdd(wide, load_f32_n(d, x[m] + k, rest), sum[r][m]);
    }
  }
  constexpr int kSums = kR * kM;
  const auto of = [&](int i) -> const V& { return sum[std::min(i, kSums - 1) % kR][std::min(i, kSums - 1) / kR]; };
  if (kR == 4 && n_apart == 1 && !a.accumulate) {
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m)
      store_sums(d, sum[0][m], sum[1 % kR][m], sum[2 % kR][m], sum[3 % kR][m], a.y[m0 + m] + n);
    return;
  }
#pragma GCC unroll 4
  for (int i = 0; i < kSums; i += 4) {
    alignas(16) float dots[4];
    store_sums(d, of(i), of(i + 1), of(i + 2), of(i + 3), dots);
    for (int j = i; j < std::min(i + 4, kSums); ++j) {
      float& y = a.y[m0 + j / kR][n + j % kR * n_apart];
      y = a.accumulate ? y + dots[j - i] : dots[j - i];
    }
  }
}

// kR rows of w against every row of x: the passes after the first find w in the cache.
template <int kR, class T>
void dot_all(const Strip& a, const T* w, const T* ahead, int64_t apart, int64_t n, int64_t n_apart) {
  int64_t m = 0;
  for (; m + 4 <= a.m; m += 4, ahead = nullptr) dot_rows<4, kR>(a, m, w, ahead, apart, n, n_apart);
  switch (a.m - m) {
    case 1: dot_rows<1, kR>(a, m, w, ahead, apart, n, n_apart); break;
    case 2: dot_rows<2, kR>(a, m, w, ahead, apart, n, n_apart); break;
    case 3: dot_rows<3, kR>(a, m, w, ahead, apart, n, n_apart); break;
    default: break;
  }
}

template <class T>
void dots_of(const Strip& a) {
  const T* w = reinterpret_cast<const T*>(a.w);
  const DotOrder order = dot_order(a, kStreams);
  for (int64_t i = 0; i < a.n / kStreams; ++i) {
    const int64_t n = i * order.step;
    const T* ahead = reinterpret_cast<const T*>(order.ahead_of(a, n));
    dot_all<kStreams>(a, w + n * a.w_stride, ahead, order.apart * a.w_stride, n, order.apart);
  }
  for (int64_t n = order.end; n < a.n; ++n) dot_all<1, T>(a, w + n * a.w_stride, nullptr, 0, n, 0);
}

void dots(const Strip& a) {
  switch (a.w_dtype) {
    case DType::bf16: dots_of<bf16>(a); break;
    case DType::f16: dots_of<f16>(a); break;
    default: dots_of<float>(a);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops::gemm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops::gemm {

HWY_EXPORT(dots);
void multiply_strip_dots(const Strip& a) noexcept { HWY_DYNAMIC_DISPATCH(dots)(a); }

}  // namespace linnet::ops::gemm
#endif
