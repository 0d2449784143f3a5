// The loops of a bf16 tile, common to the instruction sets: k blocks, pairs of panels, register blocks of rows.
// Included by their files alone, each compiled with its own flags; hence the anonymous namespace.
#pragma once

#include <cstring>

#include "ops/gemm/gemm_kernels.h"

namespace linnet::ops::gemm {
namespace {

struct Block {
  const std::byte* w;      // row 0 of the register block, at the k block
  int64_t stride;          // bytes between rows
  const std::byte* after;  // the memory that is used next
  const std::byte* x[2];   // panels at the k block; equal when there is one
  float* c[2];
  int64_t depth;   // a multiple of Kernel::kStep; w and x are zero beyond the k of the problem
  bool resume;     // add to c
  bool first_use;  // of these rows: later panels find them in the cache
};

constexpr int64_t kDepth = 512;  // k block: two panels of x, 32 KiB, stay in L1 while the rows of w pass
static_assert(kDepth * 2 <= kTileDepthBytes);

// The k block of rows [n0, t.n) side by side in scratch, completed by zeros to `padded`. Rows of scratch beyond them
// keep what was there: their products are not stored.
void copy_weights(const Tile& t, int64_t n0, int64_t k0, int64_t depth, int64_t padded) {
  for (int64_t n = n0; n < t.n; ++n) {
    std::byte* to = t.scratch + (n - n0) * kTileRowBytes;
    std::memcpy(to, t.w + (n * t.w_stride + k0) * 2, static_cast<size_t>(depth * 2));
    std::memset(to + depth * 2, 0, static_cast<size_t>((padded - depth) * 2));
  }
}

// Kernel: kRows of a register block, kStep of k, kStoreRows finished rows stored together, multiply<panels>(const
// Block&).
template <class Kernel>
void multiply_tile(const Tile& t) noexcept {
  constexpr int64_t kRows = Kernel::kRows, kStoreRows = Kernel::kStoreRows;
  static_assert(kTileRows % kStoreRows == 0 && kStoreRows % kRows == 0 && kDepth % Kernel::kStep == 0);
  int64_t k0 = 0;
  do {
    const int64_t depth = t.k - k0 < kDepth ? t.k - k0 : kDepth, padded = round_up(depth, Kernel::kStep);
    // In place as far as whole register blocks of whole steps go.
    const int64_t in_place = depth == padded ? t.n / kRows * kRows : 0;
    if (in_place < t.n) copy_weights(t, in_place, k0, depth, padded);
    for (int64_t p = 0; p < t.panels; p += 2) {
      const int64_t last = p + 1 < t.panels ? p + 1 : p;
      const int64_t at_x = k0 * kPanelRows * 2;
      Block b{.x = {t.x + p * t.panel_bytes + at_x, t.x + last * t.panel_bytes + at_x},
              .c = {t.c + p * kTileRows * kPanelRows, t.c + last * kTileRows * kPanelRows},
              .depth = padded,
              .resume = k0 > 0,
              .first_use = p == 0};
      for (int64_t n = 0; n < t.n; n += kRows) {
        const bool here = n < in_place;
        const int64_t done = n + kRows;
        b.w = here ? t.w + (n * t.w_stride + k0) * 2 : t.scratch + (n - in_place) * kTileRowBytes;
        b.stride = here ? t.w_stride * 2 : kTileRowBytes;
        if (t.accumulate && k0 + depth == t.k && n % kStoreRows == 0) prefetch_part(t, p, last - p + 1, n, kStoreRows);
        b.after = done < t.n ? b.w + kRows * b.stride : t.w + (k0 + depth) * 2;
        if (last > p) Kernel::template multiply<2>(b);
        else Kernel::template multiply<1>(b);
        for (float*& at : b.c) at += kRows * kPanelRows;
        if (k0 + depth == t.k && (done % kStoreRows == 0 || done >= t.n))
          store_part(t, p, last - p + 1, n / kStoreRows * kStoreRows, kStoreRows);
      }
    }
    k0 += depth;
  } while (k0 < t.k);
}

}  // namespace
}  // namespace linnet::ops::gemm
