// Normalisations on Hopper: arguments and launches. Formulas: norm.h. All pointers are device memory.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace linnet::ops {

constexpr int kNormSm90MaxWidth = 24576;
constexpr int kGatedNormSm90Dim = 128;

// y[n, c] = x[n, c] / sqrt(mean_c x[n, c]^2 + eps) * weight[c]
struct RmsNormSm90 {
  const void* x;               // [N, C] bf16
  const float* weight;         // [C]
  void* y;                     // [N, C] bf16; may be x
  int64_t x_stride, y_stride;  // elements between rows; multiples of 8, >= C
  int64_t n_rows;
  int32_t width;  // C: a multiple of 8, at most kNormSm90MaxWidth
  float eps;
};

// y[n, h, d] = x[n, h, d] / sqrt(mean_d x[n, h, d]^2 + eps) * weight[d] * act(gate[n, h, d])
struct GatedNormSm90 {
  const void* x;                            // [N, H, 128] bf16
  const void* gate;                         // [N, H, 128] bf16
  const float* weight;                      // [128], shared by all heads
  void* y;                                  // [N, H, 128] bf16; may be x
  int64_t x_stride, gate_stride, y_stride;  // elements between tokens; multiples of 8, >= H * 128
  int64_t n_tokens;
  int32_t n_heads;
  float eps;
  int32_t silu;  // act: silu instead of sigmoid
};

// Enqueue. Graph-capturable, deterministic: a row's bits depend on the row and its width alone. Return a cudaError_t.
int rms_norm_sm90(const RmsNormSm90& args, CUstream_st* stream) noexcept;
int gated_norm_sm90(const GatedNormSm90& args, CUstream_st* stream) noexcept;

}  // namespace linnet::ops
