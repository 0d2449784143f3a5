// Gradients of the element-wise activations: contract. Definitions: activation_ref_bwd.cpp.
#pragma once

#include "ops/activation/activation.h"

namespace linnet::ops {

// y = silu(gate) up:  dgate = dy up silu'(gate);  dup = dy silu(gate)
struct SwigluBwdArgs {
  ConstTensor gate, up;  // [N, I] f32, row stride free: the forward's inputs
  ConstTensor dy;        // [N, I] f32, row stride free
  Tensor dgate, dup;     // [N, I] f32, row stride free; one of them may be dy
};
Plan<SwigluBwdArgs> plan_swiglu_bwd(const SwigluBwdArgs& args, Isa isa = active_isa());
void swiglu_ref_bwd(const SwigluBwdArgs& args);

// y = factor sigmoid(x):  dx = dy y (1 - y / factor)
struct SigmoidBwdArgs {
  ConstTensor y;   // [N, I] f32, row stride free: the forward's output
  ConstTensor dy;  // [N, I] f32, row stride free
  Tensor dx;       // [N, I] f32, row stride free; may be dy
  float factor = 1;
};
Plan<SigmoidBwdArgs> plan_sigmoid_bwd(const SigmoidBwdArgs& args, Isa isa = active_isa());
void sigmoid_ref_bwd(const SigmoidBwdArgs& args);

}  // namespace linnet::ops
