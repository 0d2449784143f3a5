// Tiles in f32 with Highway vectors: weights of any dtype, widened a k block at a time, against packed f32 panels.
#include <algorithm>

#include "ops/gemm/gemm_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm/gemm_simd.cpp"
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
constexpr int64_t kVectorsPerPanel = kPanelRows / kLanes;

// Register block: kRows rows of w by two vectors of x. 12 x 2 accumulators of 32 registers (AVX-512), 6 x 2 of 16.
constexpr int kRows = kLanes == 16 ? 12 : 6;
constexpr int64_t kDepth = kTileDepthBytes / 4;    // k block: two vectors of x stay in L1 while the rows of w pass
constexpr int64_t kRowStride = kTileRowBytes / 4;  // of the widened weights
static_assert(kTileRows % kRows == 0);

// c[r][j] (+)= sum_k w[r][k] x[j][k] for one register block; x[j] advances by a panel row per k, c by a panel row per r.
template <int kVectors>
HWY_INLINE void multiply_block(const float* HWY_RESTRICT w, const float* const* x, int64_t depth, float* const* c,
                               bool resume) {
  const D d;
  V sum[kRows][kVectors];
  const float* x0 = x[0];
  const float* x1 = x[kVectors - 1];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) sum[r][j] = resume ? hn::LoadU(d, c[j] + r * kPanelRows) : hn::Zero(d);
  for (int64_t k = 0; k < depth; ++k) {
    const V v0 = hn::LoadU(d, x0 + k * kPanelRows), v1 = hn::LoadU(d, x1 + k * kPanelRows);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const V wr = hn::Set(d, w[r * kRowStride + k]);
      sum[r][0] = hn::MulAdd(wr, v0, sum[r][0]);
      if constexpr (kVectors == 2) sum[r][1] = hn::MulAdd(wr, v1, sum[r][1]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) hn::StoreU(sum[r][j], d, c[j] + r * kPanelRows);
}

template <class T>
void widen(const Tile& t, int64_t k0, int64_t depth) {
  const D d;
  for (int64_t n = 0; n < t.n; ++n) {
    const T* from = reinterpret_cast<const T*>(t.w) + n * t.w_stride + k0;
    float* to = reinterpret_cast<float*>(t.scratch) + n * kRowStride;
    int64_t k = 0;
    for (; k + kLanes <= depth; k += kLanes) hn::StoreU(load_f32(d, from + k), d, to + k);
    if (k < depth) store_n(load_f32_n(d, from + k, depth - k), d, to + k, depth - k);
  }
}

void multiply(const Tile& t) {
  const auto at = [&](int64_t vector) { return vector / kVectorsPerPanel; };
  const auto lane = [&](int64_t vector) { return vector % kVectorsPerPanel * kLanes; };
  const int64_t vectors = t.panels * kVectorsPerPanel;
  int64_t k0 = 0;
  do {
    const int64_t depth = std::min(kDepth, t.k - k0);
    switch (t.w_dtype) {
      case DType::bf16: widen<bf16>(t, k0, depth); break;
      case DType::f16: widen<f16>(t, k0, depth); break;
      default: widen<float>(t, k0, depth);
    }
    for (int64_t v = 0; v < vectors; v += 2) {
      const bool pair = v + 1 < vectors;
      const float* x[2];
      float* c[2];
      for (int64_t j = 0; j < 2; ++j) {
        const int64_t u = v + (pair ? j : 0);
        x[j] = reinterpret_cast<const float*>(t.x + at(u) * t.panel_bytes) + k0 * kPanelRows + lane(u);
        c[j] = t.c + at(u) * kTileRows * kPanelRows + lane(u);
      }
      for (int64_t n = 0; n < t.n; n += kRows) {
        const float* w = reinterpret_cast<const float*>(t.scratch) + n * kRowStride;
        if (pair) multiply_block<2>(w, x, depth, c, k0 > 0);
        else multiply_block<1>(w, x, depth, c, k0 > 0);
        for (float*& p : c) p += kRows * kPanelRows;
      }
    }
    k0 += depth;
  } while (k0 < t.k);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops::gemm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops::gemm {

HWY_EXPORT(multiply);
void multiply_f32(const Tile& tile) noexcept { HWY_DYNAMIC_DISPATCH(multiply)(tile); }

}  // namespace linnet::ops::gemm
#endif
