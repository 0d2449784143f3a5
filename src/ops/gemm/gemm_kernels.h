// Inside of the op: how operands and results lie while a batch runs, and the kernels that a batch is made of.
//
// Weights are read where they are, [N, K] with k contiguous, as the left operand: a kernel broadcasts w(n, k) against
// 16 rows of x that lie side by side. So x is packed once per batch into panels of 16 rows, and results are born
// transposed, c[m / 16][n][m % 16].
#pragma once

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>

#include "ops/gemm/gemm.h"
#include "ops/gemm/gemm_bwd.h"

namespace linnet::ops::gemm {

constexpr int64_t kPanelRows = 16;   // rows of x in a packed panel: an AVX-512 register, the columns of an AMX tile
constexpr int64_t kTileRows = 96;    // most rows of w in one task: a multiple of every kernel's register block
constexpr int64_t kTilePanels = 16;  // most panels of x in one task, 256 rows

// Packed panels are zero-filled to a multiple of this k: whole columns of a transposition; one AMX tile.
constexpr int64_t kF32DepthStep = 4;
constexpr int64_t kBf16DepthStep = 32;

// Bytes of one k block of the tile's weights, converted or copied for the kernel, rows apart by a cache line more than
// the block.
constexpr int64_t kTileDepthBytes = 1024;
constexpr int64_t kTileRowBytes = kTileDepthBytes + 64;

// A packed panel holds, for rows r of x and column k:
//   f32    [K'][16]          x(r, k)
//   bf16   [K' / 2][16][2]   x(r, 2 i + j) rounded to nearest even
// with K' = K rounded up to the step.
constexpr int64_t round_up(int64_t k, int64_t step) { return (k + step - 1) / step * step; }
constexpr int64_t panel_bytes_f32(int64_t k) { return round_up(k, kF32DepthStep) * kPanelRows * 4; }
constexpr int64_t panel_bytes_bf16(int64_t k) { return round_up(k, kBf16DepthStep) * kPanelRows * 2; }

// Fills one panel from 16 rows of k values each (pointers may repeat).
using PackPanel = void(const float* const* rows, int64_t k, std::byte* panel) noexcept;
PackPanel pack_panel_f32, pack_panel_bf16;  // gemm_pack_simd.cpp

// The same from a transposed x, whose rows are columns in memory: consecutive panels, the last filled up by zeros.
struct ColumnPanels {
  const float* x;  // [k, columns]
  int64_t x_stride, k, columns;
  std::byte* panels;
  int64_t panel_bytes;
};
using PackColumnPanels = void(const ColumnPanels&) noexcept;
PackColumnPanels pack_column_panels_f32, pack_column_panels_bf16;

// to[c][r] = rows[r][c] for n <= kTransposeRows rows and `columns` columns, f32 or rounded to bf16 (nearest even).
constexpr int64_t kTransposeRows = 32;  // a cache line of bf16
struct TransposeBlock {
  const float* const* rows;  // [n + ahead]: those after the first n are used next, and prefetched
  int64_t n, ahead, columns;
  std::byte* to;
  DType to_dtype;     // f32 or bf16
  int64_t to_stride;  // elements
};
void transpose_block(const TransposeBlock& block) noexcept;  // gemm_transpose_simd.cpp

// One task: y[m, n] (+)= sum_k x(m, k) w(n, k) for rows [0, n) of w and m rows of packed x. Accumulation is f32 and
// ascending in k, whatever the extents. c takes partial sums as [panel][n][16]; rows of c beyond n may be overwritten.
struct Tile {
  const std::byte* w;
  DType w_dtype;
  int64_t w_stride;  // elements between rows of w
  int64_t n, k;
  const std::byte* x;
  int64_t panel_bytes, panels;
  float* y;
  int64_t y_stride, m;
  bool accumulate;
  float* c;            // [kTilePanels][kTileRows][16]
  std::byte* scratch;  // [kTileRows][kTileRowBytes]
};
struct TileKernel {
  void (*multiply)(const Tile& tile) noexcept;
  int64_t row_block;  // rows of w that it computes at once: a task should have a multiple of them
};
extern const TileKernel kTilesF32;         // gemm_simd.cpp: panels f32, any weights
extern const TileKernel kTilesAvx512Bf16;  // panels and weights bf16
extern const TileKernel kTilesAmx;         // the same

// Turns part of a finished tile back into y: panels [panel, panel + panels), rows [n0, n0 + rows) of w, cut to the
// tile's extents. Kernels do so block by block, while what they compute next hides the misses of y.
void store_part(const Tile& tile, int64_t panel, int64_t panels, int64_t n0, int64_t rows) noexcept;

// Asks for the part of y that store_part will add to: without it each of its short runs of a row is a miss.
inline void prefetch_part(const Tile& t, int64_t panel, int64_t panels, int64_t n0, int64_t rows) {
  constexpr int64_t kLine = 16;
  const int64_t m_end = panel * kPanelRows + panels * kPanelRows, n_end = n0 + rows;
  for (int64_t m = panel * kPanelRows; m < (m_end < t.m ? m_end : t.m); ++m)
    for (int64_t n = n0; n < (n_end < t.n ? n_end : t.n); n += kLine) __builtin_prefetch(t.y + m * t.y_stride + n, 1);
}

// y[m][n] (+)= sum_k w(n, k) * x[m][k] for few rows of x, given by pointer, and rows [0, n) of w.
constexpr int64_t kStripRows = 64;
struct Strip {
  const float* x[kStripRows];
  float* y[kStripRows];  // at the first of the n columns
  int64_t m;             // <= kStripRows
  const std::byte* w;
  DType w_dtype;
  int64_t w_stride, n, k;
  const std::byte* after;  // the w of the strip that follows, its rows as far apart; null: none
  bool accumulate;
  bool small;  // the whole matrix is at most kSmallBytes
  // Of the kernels that round x: where to, kAlignment-aligned, room for a row at least; and whether all of it is there already.
  std::byte* scratch;
  int64_t scratch_bytes;
  bool x_is_rounded;
};
constexpr int64_t rounded_row_bytes(int64_t k) { return round_up(k, kBf16DepthStep) * 2; }
constexpr int64_t kSmallBytes = 512 << 10;
using StripKernel = void(const Strip& strip) noexcept;
StripKernel multiply_strip_dots;              // gemm_gemv_simd.cpp: w is [n, k]
StripKernel multiply_strip_dots_avx512_bf16;  // the same for w in bf16, x rounded to it
StripKernel multiply_strip_in_out;            // gemm_in_out_simd.cpp: w is [k, n]; ascending in k for each y

// The order in which a strip's rows of w are taken, `streams` at once. Few rows of x against a large matrix are bound by memory: each stream
// is one ascending run of it. Else in order: a small matrix is in the cache more often than not, and results side by side fill whole
// lines, where columns far apart of many rows of y evict each other.
struct DotOrder {
  int64_t step, apart;      // rows of w between groups, and within one
  int64_t ahead_bytes = 0;  // from a row to what is fetched meanwhile
  int64_t end;              // of the groups

  // What to fetch while the group at row n runs, null where there is nothing.
  const std::byte* ahead_of(const Strip& a, int64_t n) const {
    const int64_t row_bytes = a.w_stride * size_of(a.w_dtype);
    if (apart != 1) return a.w + n * row_bytes + ahead_bytes;
    const int64_t row = n + ahead_bytes / std::max<int64_t>(row_bytes, 1);
    return row < end ? a.w + row * row_bytes : a.after ? a.after + (row - end) * row_bytes : nullptr;
  }
};
inline DotOrder dot_order(const Strip& a, int64_t streams) {
  constexpr int64_t kInStream = 1024;  // 256 B and 4 KiB measured slower
  constexpr int64_t kInOrder =
      8 << 10;  // from a shared cache: 2 KiB reach two thirds of its rate, 16 KiB no more than 8
  constexpr int64_t kMostInStreams = 4;  // rows of x
  const int64_t row_bytes = std::max<int64_t>(a.w_stride * size_of(a.w_dtype), 1), run = a.n / streams;
  if (!a.small && a.m <= kMostInStreams)
    return {.step = 1, .apart = run, .ahead_bytes = kInStream, .end = run * streams};
  const int64_t rows = std::max(round_up(kInOrder / row_bytes, streams), streams);
  return {.step = streams, .apart = 1, .ahead_bytes = rows * row_bytes, .end = run * streams};
}

// What a variant is made of. The bf16 ones serve bf16 weights against rounded x; without them the others serve every dtype.
struct Kernels {
  const TileKernel* f32;
  const TileKernel* bf16;
  StripKernel* dots_bf16 = nullptr;
};
inline constexpr Kernels kKernelsSimd{.f32 = &kTilesF32, .bf16 = nullptr};
#if defined(__x86_64__)
inline constexpr Kernels kKernelsAvx512Bf16{
    .f32 = &kTilesF32, .bf16 = &kTilesAvx512Bf16, .dots_bf16 = &multiply_strip_dots_avx512_bf16};
inline constexpr Kernels kKernelsAmx{.f32 = &kTilesF32, .bf16 = &kTilesAmx};
#endif
std::string refusal_of_avx512_bf16();  // why this CPU should not use it; empty where it should. gemm.cpp

// "gemm: problem 3" for messages, made without a stream: every problem of every plan has one.
class ProblemName {
 public:
  ProblemName(std::string_view op, size_t i) {
    constexpr std::string_view kProblem = ": problem ";
    char* at = std::copy(kProblem.begin(), kProblem.end(), std::copy(op.begin(), op.end(), text_));
    *std::to_chars(at, text_ + sizeof text_ - 1, i).ptr = 0;
  }
  const char* c_str() const { return text_; }

 private:
  char text_[48];
};

// Work that makes operands of a batch. It runs beside the packing of x, in one region.
struct Preparation {
  int64_t tasks;
  FunctionRef<void(int64_t task)> run;
};
// gemm_batch.cpp
void run_batch(const GemmArgs& args, const Exec& exec, const Kernels& kernels,
               const Preparation* preparation = nullptr) noexcept;
size_t batch_workspace_bytes(const GemmArgs& args, int n_threads, const Kernels& kernels);
size_t batch_fixed_bytes(int n_threads);  // of them, those beside the packed panels
size_t workspace_bound(int64_t rows, int64_t k, int n_threads);

// gemm_batch_bwd.cpp
void run_bwd(const GemmBwdArgs& args, const Exec& exec, const Kernels& kernels) noexcept;
size_t bwd_workspace_bytes(const GemmBwdArgs& args, int n_threads, const Kernels& kernels);

}  // namespace linnet::ops::gemm
