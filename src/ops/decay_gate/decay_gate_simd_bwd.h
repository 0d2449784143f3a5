// The portable-vector variant of the decay gate's gradient.
#pragma once

#include "ops/decay_gate/decay_gate_bwd.h"

namespace linnet::ops {

void decay_gate_simd_bwd(const DecayGateBwdArgs& args, const Exec& exec) noexcept;
size_t decay_gate_simd_bwd_workspace_bytes(const DecayGateBwdArgs& args, int n_threads);

}  // namespace linnet::ops
