// Gradients of routing and combining: contract. Definitions: moe_ref_bwd.cpp.
#pragma once

#include "ops/moe/moe.h"

namespace linnet::ops {

// The choice of experts is a constant; the weights of the chosen ones have gradients. With s_i = score(logits)[experts_i] (plus
// the bias with biased_weights), S = sum s_i + 1e-20:
//   renormalize:  w_i = scaling s_i / S,  ds_i = (scaling dw_i - sum_j dw_j w_j) / S;     otherwise ds_i = scaling dw_i
//   sigmoid:      dlogit_e = ds s (1 - s) for chosen e, else 0;   softmax: dlogit_e = p_e (ds_e - sum_j ds_j p_j), all e
struct RouterBwdArgs {
  ConstTensor logits;    // [N, E] f32
  ConstTensor bias;      // [E] f32, or absent; read with biased_weights only
  ConstTensor experts;   // [N, K] i32, as the forward chose
  ConstTensor dweights;  // [N, K] f32
  Tensor dlogits;        // [N, E] f32, overwritten
  float scaling = 1;
  bool renormalize = true;
  bool biased_weights = false;
  RouterScore score = RouterScore::sigmoid;
};
Plan<RouterBwdArgs> plan_router_bwd(const RouterBwdArgs& args, Isa isa = active_isa());
void router_ref_bwd(const RouterBwdArgs& args);

// y[n] = sum_slot weights[n, slot] x[position[n, slot]]:  dx[position[n, slot]] = weights[n, slot] dy[n];
// dweights[n, slot] = dy[n] . x[position[n, slot]]
struct CombineBwdArgs {
  ConstTensor x;         // [N * K, C] f32
  ConstTensor position;  // [N, K] i32
  ConstTensor weights;   // [N, K] f32
  ConstTensor dy;        // [N, C] f32, row stride free
  Tensor dx;             // [N * K, C] f32, overwritten; may be x
  Tensor dweights;       // [N, K] f32, overwritten
};
Plan<CombineBwdArgs> plan_combine_bwd(const CombineBwdArgs& args, Isa isa = active_isa());
void combine_ref_bwd(const CombineBwdArgs& args);

}  // namespace linnet::ops
