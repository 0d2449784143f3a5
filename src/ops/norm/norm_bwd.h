// Gradients of the normalisations: contract. Definitions: norm_ref_bwd.cpp.
#pragma once

#include "ops/norm/norm.h"

namespace linnet::ops {

// x^ = x r, r = (mean x^2 + eps)^-1/2:  dx^ = dy weight;  dx = r (dx^ - x^ mean(dx^ x^));  dweight += sum_n dy x^
struct RmsNormBwdArgs {
  ConstTensor x;       // [N, C] f32, row stride free: the forward's input
  ConstTensor weight;  // [C] f32
  ConstTensor dy;      // [N, C] f32, row stride free
  Tensor dx;           // [N, C] f32, row stride free; may be dy
  Tensor dweight;      // [C] f32, added to
  float eps;
  bool accumulate =
      false;  // add to dx (the gradient of a residual stream) instead of overwriting it; dx is then not dy
};

// y = x r, r = (sum x^2 + eps)^-1/2:  dx = r (dy - y (y . dy)), exact including eps
struct L2NormBwdArgs {
  ConstTensor x;   // [N, H, D] f32, token stride free: the forward's input
  ConstTensor dy;  // [N, H, D] f32, token stride free
  Tensor dx;       // [N, H, D] f32, token stride free; may be dy
  float eps;
};

// y = x^ weight act(gate):  dgate = dy x^ weight act'(gate);  dweight += sum_{n, h} dy x^ act(gate);  x as in RmsNormBwdArgs
struct GatedNormBwdArgs {
  ConstTensor x;       // [N, H, D] f32, token stride free: the forward's input
  ConstTensor gate;    // [N, H, D] f32, token stride free
  ConstTensor weight;  // [D] f32
  ConstTensor dy;      // [N, H, D] f32, token stride free
  Tensor dx;           // [N, H, D] f32, token stride free; may be dy
  Tensor dgate;        // [N, H, D] f32, token stride free; not dy
  Tensor dweight;      // [D] f32, added to
  float eps;
  GateActivation activation = GateActivation::sigmoid;
};

// Each plan_* throws InvalidArgument. Sums over tokens are made in an order that does not depend on the thread count.
Plan<RmsNormBwdArgs> plan_rms_norm_bwd(const RmsNormBwdArgs& args, Isa isa = active_isa());
Plan<L2NormBwdArgs> plan_l2_norm_bwd(const L2NormBwdArgs& args, Isa isa = active_isa());
Plan<GatedNormBwdArgs> plan_gated_norm_bwd(const GatedNormBwdArgs& args, Isa isa = active_isa());

void rms_norm_ref_bwd(const RmsNormBwdArgs& args);
void l2_norm_ref_bwd(const L2NormBwdArgs& args);
void gated_norm_ref_bwd(const GatedNormBwdArgs& args);

}  // namespace linnet::ops
