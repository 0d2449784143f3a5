// Inside of the op: how operands and results lie while a batch runs, and the kernels that a batch is made of.
//
// Weights are read where they are, [N, K] with k contiguous, as the left operand: a kernel broadcasts w(n, k) against 16 rows of x
// that lie side by side. So x is packed once per batch into panels of 16 rows, and results are born transposed, c[m / 16][n][m % 16].
#pragma once

#include "ops/gemm/gemm.h"

namespace linnet::ops::gemm {

constexpr int64_t kPanelRows = 16;   // rows of x in a packed panel: an AVX-512 register, the columns of an AMX tile
constexpr int64_t kTileRows = 96;    // rows of w in one task: a multiple of every kernel's register block (12, 6, 32)
constexpr int64_t kTilePanels = 16;  // panels of x in one task, 256 rows
constexpr int64_t kBf16DepthStep = 32;  // packed bf16 panels are zero-filled to a multiple of this k: one AMX tile

// Bytes of one k block of the tile's weights, converted or copied for the kernel, rows apart by a cache line more than the block.
constexpr int64_t kTileDepthBytes = 1024;
constexpr int64_t kTileRowBytes = kTileDepthBytes + 64;

// A packed panel holds, for rows r of x and column k:
//   f32    [K][16]           x(r, k)
//   bf16   [K' / 2][16][2]   x(r, 2 i + j) rounded to nearest even; K' = K rounded up to kBf16DepthStep
constexpr int64_t panel_bytes_f32(int64_t k) { return k * kPanelRows * 4; }
constexpr int64_t panel_bytes_bf16(int64_t k) {
  return (k + kBf16DepthStep - 1) / kBf16DepthStep * kBf16DepthStep * kPanelRows * 2;
}

// Fills one panel from 16 rows of k values each (pointers may repeat).
using PackPanel = void(const float* const* rows, int64_t k, std::byte* panel) noexcept;
PackPanel pack_panel_f32, pack_panel_bf16;  // gemm_pack_simd.cpp

// c[panel][n][r] = sum_k w(n, k) * x(16 panel + r, k): rows [0, n) of w against `panels` packed panels. Rows of c beyond n may be
// overwritten. Accumulation is f32 and ascending in k, whatever the extents.
struct Tile {
  const std::byte* w;
  DType w_dtype;
  int64_t w_stride;  // elements between rows of w
  int64_t n, k;
  const std::byte* x;
  int64_t panel_bytes, panels;
  float* c;            // [kTilePanels][kTileRows][16]
  std::byte* scratch;  // [kTileRows][kTileRowBytes]
};
using MultiplyTile = void(const Tile& tile) noexcept;
MultiplyTile multiply_f32;          // gemm_simd.cpp: panels f32, any weights
MultiplyTile multiply_avx512_bf16;  // panels and weights bf16

// y(m, n) (+)= c, transposed back. y points at the tile's first element.
struct TileStore {
  const float* c;
  float* y;
  int64_t y_stride, m, n;
  bool accumulate;
};
void store_tile(const TileStore& store) noexcept;  // gemm_pack_simd.cpp

// y[m][n] (+)= sum_k w(n, k) * x[m][k] for few rows of x, given by pointer, and rows [0, n) of w.
struct Strip {
  const float* x[kGemvRows];
  float* y[kGemvRows];  // at the first of the n columns
  int64_t m;            // <= kGemvRows
  const std::byte* w;
  DType w_dtype;
  int64_t w_stride, n, k;
  bool accumulate;
};
void multiply_strip_dots(const Strip& strip) noexcept;  // gemm_gemv_simd.cpp: w is [n, k]
void multiply_strip_in_out(
    const Strip& strip) noexcept;  // gemm_in_out_simd.cpp: w is [k, n]; ascending in k for each y

// What a variant is made of. bf16 serves bf16 weights against rounded x; without it f32 serves every dtype.
struct Kernels {
  MultiplyTile* f32;
  MultiplyTile* bf16;
};
void run_batch(const GemmArgs& args, const Exec& exec, const Kernels& kernels) noexcept;  // gemm_batch.cpp
size_t batch_workspace_bytes(const GemmArgs& args, int n_threads, const Kernels& kernels);
size_t workspace_bound(int64_t rows, int64_t k, int n_threads);

}  // namespace linnet::ops::gemm
