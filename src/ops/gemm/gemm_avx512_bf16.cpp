// Tiles in bf16 with AVX-512 BF16: a dword of w holds two consecutive k and is broadcast against 16 rows of x packed the same way.
#include <immintrin.h>

#include <cstring>

#include "ops/gemm/gemm_kernels.h"

namespace linnet::ops::gemm {
namespace {

// Register block: 12 rows of w by two panels of x, 24 of 32 registers. vdpbf16ps has a latency of 6 and two a cycle may start, so
// 12 chains are the least; 14 loads feed 24 of them.
constexpr int kRows = 12;
constexpr int64_t kDepth = kTileDepthBytes / 2;  // k block: two panels of x stay in L1 while the rows of w pass
static_assert(kTileRows % kRows == 0 && kDepth % 2 == 0);

// c[r] (+)= sum over `pairs` of w(r, 2 i) x(2 i) + w(r, 2 i + 1) x(2 i + 1); rows of w are kTileRowBytes apart.
template <int kPanels>
inline void multiply_block(const std::byte* __restrict w, const std::byte* const* x, int64_t pairs, float* const* c,
                           bool resume) {
  __m512 sum[kRows][kPanels];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) sum[r][p] = resume ? _mm512_loadu_ps(c[p] + r * kPanelRows) : _mm512_setzero_ps();
  const std::byte* x0 = x[0];
  const std::byte* x1 = x[kPanels - 1];
  for (int64_t i = 0; i < pairs; ++i) {
    const __m512bh v0 = (__m512bh)_mm512_loadu_si512(x0 + i * 64), v1 = (__m512bh)_mm512_loadu_si512(x1 + i * 64);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, w + r * kTileRowBytes + i * 4, 4);
      const __m512bh wr = (__m512bh)_mm512_set1_epi32(pair);
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], wr, v0);
      if constexpr (kPanels == 2) sum[r][1] = _mm512_dpbf16_ps(sum[r][1], wr, v1);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) _mm512_storeu_ps(c[p] + r * kPanelRows, sum[r][p]);
}

// The k block of every row, side by side in scratch: one page instead of one a row, and a last odd k completed by zero.
void copy_weights(const Tile& t, int64_t k0, int64_t depth) {
  for (int64_t n = 0; n < t.n; ++n) {
    std::byte* to = t.scratch + n * kTileRowBytes;
    const size_t bytes = static_cast<size_t>(depth) * 2;
    std::memcpy(to, t.w + (n * t.w_stride + k0) * 2, bytes);
    std::memset(to + bytes, 0, 2);
  }
}

}  // namespace

void multiply_avx512_bf16(const Tile& t) noexcept {
  int64_t k0 = 0;
  do {
    const int64_t depth = t.k - k0 < kDepth ? t.k - k0 : kDepth;
    copy_weights(t, k0, depth);
    for (int64_t p = 0; p < t.panels; p += 2) {
      const int64_t last = p + 1 < t.panels ? p + 1 : p;
      const int64_t at_k = k0 / 2 * 64;
      const std::byte* x[] = {t.x + p * t.panel_bytes + at_k, t.x + last * t.panel_bytes + at_k};
      float* c[] = {t.c + p * kTileRows * kPanelRows, t.c + last * kTileRows * kPanelRows};
      for (int64_t n = 0; n < t.n; n += kRows) {
        const std::byte* w = t.scratch + n * kTileRowBytes;
        if (last > p) multiply_block<2>(w, x, (depth + 1) / 2, c, k0 > 0);
        else multiply_block<1>(w, x, (depth + 1) / 2, c, k0 > 0);
        for (float*& at : c) at += kRows * kPanelRows;
      }
    }
    k0 += depth;
  } while (k0 < t.k);
}

}  // namespace linnet::ops::gemm
