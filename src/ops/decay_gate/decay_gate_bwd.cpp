// Validation of the arguments of the decay gate's gradient, and the table of its variants.
#include "ops/decay_gate/decay_gate_bwd.h"

#include "ops/decay_gate/decay_gate_simd_bwd.h"

namespace linnet::ops {
namespace {

constexpr const char* kOp = "decay_gate_bwd";

constexpr Variant<DecayGateBwdArgs> kVariants[] = {
    {"simd", Isa::baseline, no_refusal<DecayGateBwdArgs>, decay_gate_simd_bwd_workspace_bytes, decay_gate_simd_bwd},
};

}  // namespace

Plan<DecayGateBwdArgs> plan_decay_gate_bwd(const DecayGateBwdArgs& a, Isa isa) {
  expect_tensor(kOp, "z", a.z, DType::f32, {-1, -1, -1});
  const int64_t N = a.z[0], H = a.z[1], D = a.z[2];
  expect_tensor(kOp, "a_log", a.a_log, DType::f32, {H});
  expect_tensor(kOp, "dlog_decay", a.dlog_decay, DType::f32, {N, H, D});
  expect_tensor(kOp, "dz", a.dz, DType::f32, {N, H, D});
  expect_tensor(kOp, "da_log", a.da_log, DType::f32, {H});
  if (a.dt_bias) {
    expect_tensor(kOp, "dt_bias", a.dt_bias, DType::f32, {H, D});
    expect_tensor(kOp, "ddt_bias", a.ddt_bias, DType::f32, {H, D});
  } else if (a.ddt_bias) {
    throw InvalidArgument(cat(kOp, ": ddt_bias: expected absent as dt_bias is, got ", text_of(a.ddt_bias)));
  }
  if (a.kind == DecayGateKind::lower_bound && !(a.lower_bound >= -5 && a.lower_bound < 0))
    throw InvalidArgument(cat(kOp, ": lower_bound: expected a value in [-5, 0), got ", a.lower_bound));
  return choose_variant<DecayGateBwdArgs>(kOp, kVariants, a, isa);
}

}  // namespace linnet::ops
