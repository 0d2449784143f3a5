// Gradient of the decay gate: contract. Definition: decay_gate_ref_bwd.cpp.
#pragma once

#include "ops/decay_gate/decay_gate.h"

namespace linnet::ops {

// With u = z + dt_bias, a = exp(A_log[h]):
//   softplus:     dz = -a sigmoid(u) dg;                              dA_log[h] += sum dg g
//   lower_bound:  s = sigmoid(a u), dz = lower_bound s (1 - s) a dg;  dA_log[h] += sum dz u
//   ddt_bias[h, d] += sum_n dz
// s (1 - s) that underflows gives a gradient of 0 however large a is. Source: docs/numerics.md; fla ops/kda/gate.py @ bc3b101.
struct DecayGateBwdArgs {
  ConstTensor z;           // [N, H, D] f32, token stride free: the forward's input
  ConstTensor a_log;       // [H] f32
  ConstTensor dt_bias;     // [H, D] f32, or absent = 0
  ConstTensor dlog_decay;  // [N, H, D] f32, token stride free
  Tensor dz;               // [N, H, D] f32, token stride free; may be dlog_decay
  Tensor da_log;           // [H] f32, added to
  Tensor ddt_bias;         // [H, D] f32, added to; absent when dt_bias is
  DecayGateKind kind = DecayGateKind::softplus;
  float lower_bound = 0;
};

// Throws InvalidArgument. Bits do not depend on the thread count.
Plan<DecayGateBwdArgs> plan_decay_gate_bwd(const DecayGateBwdArgs& args, Isa isa = active_isa());
void decay_gate_ref_bwd(const DecayGateBwdArgs& args);

}  // namespace linnet::ops
