// Products of few rows with AVX-512 BF16: dot products along k, four rows of w at once as they lie, x rounded on the way.
#include <immintrin.h>

#include <algorithm>

#include "ops/gemm/gemm_kernels.h"

namespace linnet::ops::gemm {
namespace {

constexpr int kStreams = 4;    // rows of w at once
constexpr int kMostRows = 6;   // rows of x at once: 24 sums, 4 of w and one of x of 32 registers
constexpr int64_t kStep = 32;  // k of one instruction

// g++ 12 takes the undefined operand of the plain intrinsics for a use of an uninitialised variable.
constexpr __mmask16 kAll = 0xffff;
inline __m512 interleave_low(__m512 a, __m512 b) { return _mm512_maskz_unpacklo_ps(kAll, a, b); }
inline __m512 interleave_high(__m512 a, __m512 b) { return _mm512_maskz_unpackhi_ps(kAll, a, b); }

// x rounded to bf16 (nearest even), zero from k to the next multiple of a step.
void round_row(const float* x, int64_t k, bf16* to) {
  int64_t i = 0;
  for (; i + kStep <= k; i += kStep)
    _mm512_storeu_si512(to + i,
                        (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + kStep / 2), _mm512_loadu_ps(x + i)));
  if (i == k) return;
  const uint64_t mask = (uint64_t{1} << (k - i)) - 1;
  const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + i),
               high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + i + kStep / 2);
  _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// Block b of the result holds, for each r, the sum of block b of v[r]: four blocks of four.
inline __m512 add_within_blocks(const __m512 (&v)[kStreams]) {
  const __m512 v01 = _mm512_add_ps(interleave_low(v[0], v[1]), interleave_high(v[0], v[1])),
               v23 = _mm512_add_ps(interleave_low(v[2], v[3]), interleave_high(v[2], v[3]));
  return _mm512_add_ps(_mm512_maskz_shuffle_ps(kAll, v01, v23, 0x44), _mm512_maskz_shuffle_ps(kAll, v01, v23, 0xee));
}
// (block 0 + block 1, block 2 + block 3) of p, then of q.
inline __m512 add_blocks(__m512 p, __m512 q) {
  return _mm512_add_ps(_mm512_maskz_shuffle_f32x4(kAll, p, q, 0x88), _mm512_maskz_shuffle_f32x4(kAll, p, q, 0xdd));
}

// Four rows of w (with kR == 1 one, and nothing is read for the others) against some rows of x.
struct Group {
  const bf16* w;
  int64_t apart;      // elements between the rows of w
  const bf16* ahead;  // what is fetched meanwhile, rows apart as those of w; null: nothing
  int64_t k;
  const bf16* x;  // rounded, k_padded apart
  int64_t k_padded;
  float* const* y;  // rows of y
  int64_t n, n_apart;
  bool accumulate;
};

// dots: [m % 4][r], of rows from m on.
template <int kM, int kR>
inline void store_dots(const Group& g, int m, __m512 dots) {
  alignas(64) float of[16];
  _mm512_store_ps(of, dots);
  for (int i = 0; i < std::min(4, kM - m); ++i) {
    float* y = g.y[m + i] + g.n;
    if (kR == kStreams && g.n_apart == 1) {
      const __m128 four = _mm_load_ps(of + 4 * i);
      _mm_storeu_ps(y, g.accumulate ? _mm_add_ps(_mm_loadu_ps(y), four) : four);
    } else {
      for (int r = 0; r < kR; ++r) {
        float& to = y[r * g.n_apart];
        to = g.accumulate ? to + of[4 * i + r] : of[4 * i + r];
      }
    }
  }
}

// One accumulator a product, and the same tree over its lanes, so that a row's bits do not depend on how many rows run beside it.
template <int kM, int kR>
void dot_group(const Group& g) {
  __m512 sum[kM][kStreams];
#pragma GCC unroll 6
  for (int m = 0; m < kM; ++m)
#pragma GCC unroll 4
    for (int r = 0; r < kStreams; ++r) sum[m][r] = _mm512_setzero_ps();
  const auto add = [&](int64_t k, const __m512bh(&wide)[kR]) {
#pragma GCC unroll 6
    for (int m = 0; m < kM; ++m) {
      const __m512bh v = (__m512bh)_mm512_loadu_si512(g.x + m * g.k_padded + k);
#pragma GCC unroll 4
      for (int r = 0; r < kR; ++r) sum[m][r] = _mm512_dpbf16_ps(sum[m][r], wide[r], v);
    }
  };
  __m512bh wide[kR];
  int64_t k = 0;
  for (; k + kStep <= g.k; k += kStep) {
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) {
      if (g.ahead) _mm_prefetch(g.ahead + r * g.apart + k, _MM_HINT_T0);
      wide[r] = (__m512bh)_mm512_loadu_si512(g.w + r * g.apart + k);
    }
    add(k, wide);
  }
  if (k < g.k) {
    const auto mask = static_cast<__mmask32>((uint64_t{1} << (g.k - k)) - 1);
#pragma GCC unroll 4
    for (int r = 0; r < kR; ++r) wide[r] = (__m512bh)_mm512_maskz_loadu_epi16(mask, g.w + r * g.apart + k);
    add(k, wide);
  }
  __m512 block[kMostRows + 2];
#pragma GCC unroll 8
  for (int m = 0; m < kMostRows + 2; ++m) block[m] = m < kM ? add_within_blocks(sum[m]) : block[kM - 1];
  store_dots<kM, kR>(g, 0, add_blocks(add_blocks(block[0], block[1]), add_blocks(block[2], block[3])));
  if constexpr (kM > 4)
    store_dots<kM, kR>(g, 4, add_blocks(add_blocks(block[4], block[5]), add_blocks(block[6], block[7])));
}

// A group against m rows of x: the passes after the first find w in the cache.
template <int kR>
void dot_all(Group g, int64_t m) {
  const auto pass = [&](auto rows) {
    dot_group<rows, kR>(g);
    m -= rows, g.x += rows * g.k_padded, g.y += rows, g.ahead = nullptr;
  };
  using std::integral_constant;
  while (m > kMostRows) pass(integral_constant<int, 4>());
  switch (m) {
    case 1: return pass(integral_constant<int, 1>());
    case 2: return pass(integral_constant<int, 2>());
    case 3: return pass(integral_constant<int, 3>());
    case 4: return pass(integral_constant<int, 4>());
    case 5: return pass(integral_constant<int, 5>());
    case 6: return pass(integral_constant<int, 6>());
    default: return;
  }
}

}  // namespace

void multiply_strip_dots_avx512_bf16(const Strip& a) noexcept {
  const bf16* w = reinterpret_cast<const bf16*>(a.w);
  const int64_t run = a.n / kStreams, k_padded = round_up(a.k, kStep);
  const DotOrder order = dot_order(a, kStreams);
  bf16* x = reinterpret_cast<bf16*>(a.scratch);
  const int64_t room = std::max<int64_t>(a.scratch_bytes / std::max<int64_t>(rounded_row_bytes(a.k), 1), 1);
  for (int64_t m0 = 0; m0 < a.m; m0 += room) {
    const int64_t m = std::min(a.m - m0, room);
    if (!a.x_is_rounded)
      for (int64_t i = 0; i < m; ++i) round_row(a.x[m0 + i], a.k, x + i * k_padded);
    Group g{.apart = order.apart * a.w_stride,
            .k = a.k,
            .x = x,
            .k_padded = k_padded,
            .y = a.y + m0,
            .n_apart = order.apart,
            .accumulate = a.accumulate};
    for (int64_t i = 0; i < run; ++i) {
      g.n = i * order.step, g.w = w + g.n * a.w_stride;
      g.ahead = reinterpret_cast<const bf16*>(order.ahead_of(a, g.n));
      dot_all<kStreams>(g, m);
    }
    g.ahead = nullptr;
    for (g.n = run * kStreams; g.n < a.n; ++g.n) {
      g.w = w + g.n * a.w_stride;
      dot_all<1>(g, m);
    }
  }
}

}  // namespace linnet::ops::gemm
