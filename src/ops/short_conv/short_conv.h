// Short causal convolution, depthwise, with optional SiLU: contract of the op. Definition: short_conv_ref.cpp.
#pragma once

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

// For the tokens t of each packed sequence:  a_t[c] = sum_{j < W} weight[c, j] * x_{t - (W - 1) + j}[c],  y_t = silu ?
// a_t * sigmoid(a_t) : a_t. Inputs before the sequence's first token come from its state, which afterwards holds the
// last W - 1 inputs, oldest first. Source: Kimi Linear, arXiv:2510.26692; tap W - 1 multiplies the current token, as in
// the published checkpoint.
struct ShortConvArgs {
  ConstTensor x;          // [N, C] f32, row stride free
  ConstTensor weight;     // [C, W] f32, 1 <= W <= 8
  ConstTensor seq_start;  // [B + 1] i32, packed offsets, ascending from 0 to N; equal neighbours = empty
  float* const*
      state;  // [B] pointers to [W - 1, C] f32: in: state before, out: state after. Untouched for an empty sequence
  Tensor y;   // [N, C] f32, row stride free; must not alias x
  bool silu = true;
};

// Throws InvalidArgument. W == 1 needs no state (the pointers are not read).
Plan<ShortConvArgs> plan_short_conv(const ShortConvArgs& args, Isa isa = active_isa());
void short_conv_ref(const ShortConvArgs& args);

}  // namespace linnet::ops
