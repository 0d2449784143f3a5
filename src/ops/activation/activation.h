// Element-wise activations: contract of the op. Definition: activation_ref.cpp.
#pragma once

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

// y[n, i] = silu(gate[n, i]) * up[n, i],  silu(a) = a * sigmoid(a)
struct SwigluArgs {
  ConstTensor gate;  // [N, I] f32, row stride free
  ConstTensor up;    // [N, I] f32, row stride free
  Tensor y;          // [N, I] f32, row stride free; may be gate or up
};
Plan<SwigluArgs> plan_swiglu(const SwigluArgs& args, Isa isa = active_isa());
void swiglu_ref(const SwigluArgs& args);

// y[n, i] = sigmoid(x[n, i]) * factor  (beta of KDA: factor 1; with negative eigenvalues allowed: 2)
struct SigmoidArgs {
  ConstTensor x;  // [N, I] f32, row stride free
  Tensor y;       // [N, I] f32, row stride free; may be x
  float factor = 1;
};
Plan<SigmoidArgs> plan_sigmoid(const SigmoidArgs& args, Isa isa = active_isa());
void sigmoid_ref(const SigmoidArgs& args);

// y[n, i] += x[n, i]
struct AddArgs {
  ConstTensor x;  // [N, I] f32, row stride free
  Tensor y;       // [N, I] f32, row stride free
};
Plan<AddArgs> plan_add(const AddArgs& args, Isa isa = active_isa());
void add_ref(const AddArgs& args);

}  // namespace linnet::ops
