// Decay gate: from the gate projection to the log-decay of the recurrent core. Definition: decay_gate_ref.cpp.
#pragma once

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

enum class DecayGateKind : uint8_t {
  softplus,     // g = -exp(A_log[h]) * softplus(z + dt_bias)             unbounded below (Kimi-Linear-48B, GDN)
  lower_bound,  // g = lower_bound * sigmoid(exp(A_log[h]) * (z + dt_bias))   in (lower_bound, 0) (Kimi K3)
};

// Natural-log decay g <= 0 for every token, head and channel (D = 1: one scalar per head, as GDN has it).
// Source: fla ops/kda/gate.py @ bc3b101. softplus(x) = log1p(exp(x)), finite and accurate for every finite x.
struct DecayGateArgs {
  ConstTensor z;        // [N, H, D] f32, token stride free
  ConstTensor a_log;    // [H] f32
  ConstTensor dt_bias;  // [H, D] f32, or absent = 0
  Tensor log_decay;     // [N, H, D] f32, token stride free; may be z
  DecayGateKind kind = DecayGateKind::softplus;
  float lower_bound = 0;  // lower_bound kind only: in [-5, 0)
};

// Throws InvalidArgument.
Plan<DecayGateArgs> plan_decay_gate(const DecayGateArgs& args, Isa isa = active_isa());
void decay_gate_ref(const DecayGateArgs& args);

}  // namespace linnet::ops
