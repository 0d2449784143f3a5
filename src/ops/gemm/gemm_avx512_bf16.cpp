// Tiles in bf16 with AVX-512 BF16: a dword of w holds two consecutive k and is broadcast against 16 rows of x packed
// the same way.
#include <immintrin.h>

#include "ops/gemm/gemm_bf16_tile-inl.h"

namespace linnet::ops::gemm {
namespace {

// 12 rows of w by two panels of x: 24 accumulators of 32 registers. vdpbf16ps has a latency of 6 and two a cycle may
// start, so 12 chains are the least; 14 loads feed 24 of them.
struct Avx512Bf16 {
  static constexpr int kRows = 12;
  static constexpr int64_t kStep = 2;
  static constexpr int64_t kStoreRows = 48;  // whole cache lines of y, few enough for the store queue
  template <int kPanels>
  static void multiply(const Block& b);
};

constexpr int64_t kLinePairs = 16;   // pairs in a cache line of w
constexpr int64_t kPairsAhead = 48;  // w is prefetched three lines ahead: 3 * 16 steps of 12 cycles hide memory

// Pointers to rows 0, 3, 6, 9: x86 addresses reach base, base + stride and base + 2 stride.
struct RowPointers {
  const std::byte* row[Avx512Bf16::kRows / 3];
  int64_t stride;
};

template <int kPanels>
inline __attribute__((always_inline)) void add_pair(__m512 (&sum)[Avx512Bf16::kRows][kPanels], RowPointers& w,
                                                    const std::byte*& x0, const std::byte*& x1) {
  const __m512bh v0 = (__m512bh)_mm512_loadu_si512(x0), v1 = (__m512bh)_mm512_loadu_si512(x1);
#pragma GCC unroll 12
  for (int r = 0; r < Avx512Bf16::kRows; ++r) {
    int32_t pair;
    std::memcpy(&pair, w.row[r / 3] + r % 3 * w.stride, sizeof pair);
    const __m512bh wide = (__m512bh)_mm512_set1_epi32(pair);
    sum[r][0] = _mm512_dpbf16_ps(sum[r][0], wide, v0);
    if constexpr (kPanels == 2) sum[r][1] = _mm512_dpbf16_ps(sum[r][1], wide, v1);
  }
  x0 += 64, x1 += 64;
  for (const std::byte*& row : w.row) row += sizeof(int32_t);
}

// c[r] (+)= sum over pairs i of w(r, 2 i) x(2 i) + w(r, 2 i + 1) x(2 i + 1)
template <int kPanels>
void Avx512Bf16::multiply(const Block& b) {
  __m512 sum[kRows][kPanels];
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p)
      sum[r][p] = b.resume ? _mm512_loadu_ps(b.c[p] + r * kPanelRows) : _mm512_setzero_ps();
  const std::byte* x0 = b.x[0];
  const std::byte* x1 = b.x[kPanels - 1];
  const int64_t s = b.stride, pairs = b.depth / 2;
  RowPointers w{{b.w, b.w + 3 * s, b.w + 6 * s, b.w + 9 * s}, s};
  int64_t i = 0;
  for (; i + kLinePairs <= pairs; i += kLinePairs) {
    if (b.first_use) {
      const int64_t ahead = i + kPairsAhead;
      const std::byte* at = ahead < pairs ? b.w + ahead * 4 : b.after + (ahead - pairs) * 4;
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) _mm_prefetch(at + r * s, _MM_HINT_T0);
    }
    for (int64_t j = 0; j < kLinePairs; ++j) add_pair<kPanels>(sum, w, x0, x1);
  }
  for (; i < pairs; ++i) add_pair<kPanels>(sum, w, x0, x1);
#pragma GCC unroll 12
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) _mm512_storeu_ps(b.c[p] + r * kPanelRows, sum[r][p]);
}

}  // namespace

constinit const TileKernel kTilesAvx512Bf16{multiply_tile<Avx512Bf16>, Avx512Bf16::kRows};

}  // namespace linnet::ops::gemm
