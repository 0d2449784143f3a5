// Language-model head with fused cross-entropy, forward and backward in one: contract. Definition: cross_entropy_ref.cpp.
#pragma once

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

// logits[n] = w hidden[n] (never all stored: they pass by in blocks of tokens);  lse = log sum exp logits[n]
//   nll[n]  = lse - logits[n, target[n]]          tokens with target -1 have nll 0 and no gradient
//   loss    = scale sum_n weight[n] (nll[n] + z_loss lse^2)
//   dlogit  = scale weight[n] ((1 + 2 z_loss lse) softmax - onehot);  dhidden = dlogit w;  dw += dlogit^T hidden
struct CrossEntropyArgs {
  ConstTensor hidden;  // [N, C] f32, row stride free
  ConstTensor w;       // [V, C] f32, bf16 or f16, dense
  ConstTensor w_t;     // [C, V], the transpose of w; absent when no gradient is wanted
  ConstTensor target;  // [N] i32, -1 or in [0, V)
  ConstTensor weight;  // [N] f32, or absent = 1
  Tensor nll;          // [N] f32, overwritten
  Tensor lse;          // [N] f32, overwritten, also where the target is -1; absent: not wanted
  Tensor dhidden;  // [N, C] f32, row stride free, overwritten; must not alias hidden. Absent: no gradients (evaluation)
  Tensor dw;       // [V, C] f32, dense, added to; absent with dhidden
  float scale = 1;  // of the gradients: usually 1 / sum of weights of the whole step
  float z_loss = 0;
  DType compute = DType::bf16;  // as in GemmBwdProblem
};

// Throws InvalidArgument, also for a target outside the vocabulary (naming its place). Bits do not depend on the thread count.
Plan<CrossEntropyArgs> plan_cross_entropy(const CrossEntropyArgs& args, Isa isa = active_isa());
std::span<const Variant<CrossEntropyArgs>> cross_entropy_variants();
void cross_entropy_ref(const CrossEntropyArgs& args);

}  // namespace linnet::ops
