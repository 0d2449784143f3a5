// Validation of the decay gate's arguments, and the table of its variants.
#include "ops/decay_gate/decay_gate.h"

#include "ops/decay_gate/decay_gate_simd.h"

namespace linnet::ops {
namespace {

constexpr const char* kOp = "decay_gate";

constexpr Variant<DecayGateArgs> kVariants[] = {
    {"simd", Isa::baseline, no_refusal<DecayGateArgs>, decay_gate_simd_workspace_bytes, decay_gate_simd},
};

}  // namespace

Plan<DecayGateArgs> plan_decay_gate(const DecayGateArgs& a, Isa isa) {
  expect_tensor(kOp, "z", a.z, DType::f32, {-1, -1, -1});
  const int64_t N = a.z[0], H = a.z[1], D = a.z[2];
  expect_tensor(kOp, "a_log", a.a_log, DType::f32, {H});
  if (a.dt_bias) expect_tensor(kOp, "dt_bias", a.dt_bias, DType::f32, {H, D});
  expect_tensor(kOp, "log_decay", a.log_decay, DType::f32, {N, H, D});
  if (a.kind == DecayGateKind::lower_bound && !(a.lower_bound >= -5 && a.lower_bound < 0))
    throw InvalidArgument(cat(kOp, ": lower_bound: expected a value in [-5, 0), got ", a.lower_bound));
  return choose_variant<DecayGateArgs>(kOp, kVariants, a, isa);
}

}  // namespace linnet::ops
