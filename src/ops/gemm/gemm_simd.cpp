// Tiles in f32 with Highway vectors: weights of any dtype, widened a k block at a time, against packed f32 panels.
#include <algorithm>

#include "ops/gemm/gemm_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/gemm/gemm_simd.cpp"
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
constexpr int64_t kVectorsPerPanel = kPanelRows / kLanes;
constexpr int64_t kPanels = kVectorsPerPanel == 1 ? 2 : 1;  // panels of x at a time: an even number of vectors

// Register block: kRows rows of w by two vectors of x. 12 x 2 accumulators of 32 registers (AVX-512), 6 x 2 of 16.
constexpr int kRows = kLanes == 16 ? 12 : 6;
constexpr int64_t kDepth = kTileDepthBytes / 4;    // k block: two vectors of x stay in L1 while the rows of w pass
constexpr int64_t kRowStride = kTileRowBytes / 4;  // of the widened weights
static_assert(kTileRows % kRows == 0);

// c[r][j] (+)= sum_k w[r][k] x[j][k] for one register block; x[j] advances by a panel row per k, c by a panel row per
// r.
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

constexpr int64_t kRowsAhead = 8;  // of w, prefetched: a row of the k block is too short to be seen as a stream

template <class T>
void widen(const Tile& t, int64_t k0, int64_t depth) {
  const D d;
  for (int64_t n = 0; n < t.n; ++n) {
    const T* from = reinterpret_cast<const T*>(t.w) + n * t.w_stride + k0;
    float* to = reinterpret_cast<float*>(t.scratch) + n * kRowStride;
    int64_t k = 0;
    for (; k + kLanes <= depth; k += kLanes) {
      hwy::Prefetch(from + kRowsAhead * t.w_stride + k);
      hn::StoreU(load_f32(d, from + k), d, to + k);
    }
    if (k < depth) store_n(load_f32_n(d, from + k, depth - k), d, to + k, depth - k);
  }
}

void widen_block(const Tile& t, int64_t k0, int64_t depth) {
  switch (t.w_dtype) {
    case DType::bf16: return widen<bf16>(t, k0, depth);
    case DType::f16: return widen<f16>(t, k0, depth);
    default: return widen<float>(t, k0, depth);
  }
}

// All rows of w against vectors v, v + 1 (or v alone) of the panels from p: a panel holds kVectorsPerPanel of them.
template <int kVectors>
void multiply_vectors(const Tile& t, int64_t p, int64_t v, int64_t k0, int64_t depth) {
  const float* x[kVectors];
  float* c[kVectors];
  for (int64_t j = 0; j < kVectors; ++j) {
    const int64_t panel = p + (v + j) / kVectorsPerPanel, lane = (v + j) % kVectorsPerPanel * kLanes;
    x[j] = reinterpret_cast<const float*>(t.x + panel * t.panel_bytes) + k0 * kPanelRows + lane;
    c[j] = t.c + panel * kTileRows * kPanelRows + lane;
  }
  for (int64_t n = 0; n < t.n; n += kRows) {
    multiply_block<kVectors>(reinterpret_cast<const float*>(t.scratch) + n * kRowStride, x, depth, c, k0 > 0);
    for (float*& at : c) at += kRows * kPanelRows;
  }
}

void multiply(const Tile& t) {
  int64_t k0 = 0;
  do {
    const int64_t depth = std::min(kDepth, t.k - k0);
    widen_block(t, k0, depth);
    for (int64_t p = 0; p < t.panels; p += kPanels) {
      const int64_t panels = std::min(kPanels, t.panels - p), vectors = panels * kVectorsPerPanel;
      int64_t v = 0;
      for (; v + 2 <= vectors; v += 2) multiply_vectors<2>(t, p, v, k0, depth);
      if (v < vectors) multiply_vectors<1>(t, p, v, k0, depth);
      if (k0 + depth == t.k) store_part(t, p, panels, 0, t.n);
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
constinit const TileKernel kTilesF32{[](const Tile& tile) noexcept { HWY_DYNAMIC_DISPATCH(multiply)(tile); }, 12};

}  // namespace linnet::ops::gemm
#endif
