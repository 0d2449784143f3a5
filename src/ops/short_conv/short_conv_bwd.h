// Gradient of the short convolution: contract. Definition: short_conv_ref_bwd.cpp.
#pragma once

#include "ops/short_conv/short_conv.h"

namespace linnet::ops {

// With a_t the sum before SiLU:  da_t = dy_t * silu'(a_t);  dx_u = sum_j weight[., j] da_{u + W - 1 - j};
// dweight[., j] += sum_t da_t x_{t - (W - 1) + j}. Nothing crosses a sequence boundary. The state's inputs are constants.
struct ShortConvBwdArgs {
  ConstTensor x;              // [N, C] f32, row stride free: the forward's input
  ConstTensor weight;         // [C, W] f32, 1 <= W <= 8
  ConstTensor seq_start;      // [B + 1] i32
  const float* const* state;  // [B] pointers to [W - 1, C] f32, the state before; a null array or entry is zeros
  ConstTensor dy;             // [N, C] f32, row stride free
  Tensor dx;                  // [N, C] f32, row stride free, overwritten; must not alias x or dy
  Tensor dweight;             // [C, W] f32, added to
  bool silu = true;
};

// Throws InvalidArgument. Bits do not depend on the thread count.
Plan<ShortConvBwdArgs> plan_short_conv_bwd(const ShortConvBwdArgs& args, Isa isa = active_isa());
void short_conv_ref_bwd(const ShortConvBwdArgs& args);

}  // namespace linnet::ops
