// Short causal convolution on Hopper: arguments and launch. Formula: short_conv.h, for four taps. All pointers are device memory.
#pragma once

#include <cstdint>

struct CUstream_st;

namespace linnet::ops {

constexpr int kShortConvSm90Taps = 4;

struct ShortConvSm90 {
  const void* x;        // [N, C] bf16
  const float* weight;  // [C, 4], tap 3 multiplies the current token
  void* y;              // [N, C] bf16; must not alias x
  const void*
      seq_start;  // [B + 1] int32 or int64: seq_start[0] == 0, ascending, seq_start[B] == N; equal neighbours = empty
  void*
      state;  // pool [slots, C, 3] bf16: the last three inputs, oldest first, as the decode kernel keeps them; may be null
  const int32_t* state_in;  // [B] slots read before the first token; negative or null: zeros
  const int32_t*
      state_out;  // [B] slots written after the last token; negative or null: not written. A slot may be read and written
                  // by the same sequence only
  int64_t x_stride, y_stride;       // elements between tokens; multiples of 8, >= C
  int64_t n_tokens;                 // N
  int32_t n_sequences, n_channels;  // C: a multiple of 8
  int32_t seq_start_is_64, silu;
};

// Enqueues the convolution, and where there is state_out a second, small kernel for the states. Graph-capturable, deterministic; a
// token's bits do not depend on how its sequence is cut into calls, nor on the batch. Returns a cudaError_t.
int short_conv_sm90(const ShortConvSm90& args, CUstream_st* stream) noexcept;

}  // namespace linnet::ops
