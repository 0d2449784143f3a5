// The portable-vector variant of the decay gate.
#pragma once

#include "ops/decay_gate/decay_gate.h"

namespace linnet::ops {

void decay_gate_simd(const DecayGateArgs& args, const Exec& exec) noexcept;
size_t decay_gate_simd_workspace_bytes(const DecayGateArgs& args, int n_threads);

}  // namespace linnet::ops
