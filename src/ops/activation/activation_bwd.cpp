// Gradients of the element-wise activations: validation and the tables of variants.
#include "ops/activation/activation_bwd.h"

namespace linnet::ops {

void swiglu_simd_bwd(const SwigluBwdArgs&, const Exec&) noexcept;  // activation_simd_bwd.cpp
void sigmoid_simd_bwd(const SigmoidBwdArgs&, const Exec&) noexcept;

namespace {
constexpr Variant<SwigluBwdArgs> kSwigluVariants[] = {
    {"simd", Isa::baseline, no_refusal, no_workspace, swiglu_simd_bwd}};
constexpr Variant<SigmoidBwdArgs> kSigmoidVariants[] = {
    {"simd", Isa::baseline, no_refusal, no_workspace, sigmoid_simd_bwd}};
}  // namespace

Plan<SwigluBwdArgs> plan_swiglu_bwd(const SwigluBwdArgs& a, Isa isa) {
  constexpr const char* kOp = "swiglu_bwd";
  expect_tensor(kOp, "dy", a.dy, DType::f32, {-1, -1});
  expect_tensor(kOp, "gate", a.gate, DType::f32, {a.dy[0], a.dy[1]});
  expect_tensor(kOp, "up", a.up, DType::f32, {a.dy[0], a.dy[1]});
  expect_tensor(kOp, "dgate", a.dgate, DType::f32, {a.dy[0], a.dy[1]});
  expect_tensor(kOp, "dup", a.dup, DType::f32, {a.dy[0], a.dy[1]});
  if (a.dy.elements() > 0 && a.dgate.data == a.dup.data)
    throw InvalidArgument(cat(kOp, ": dup: expected memory other than dgate's, got the same"));
  return choose_variant<SwigluBwdArgs>(kOp, kSwigluVariants, a, isa);
}

Plan<SigmoidBwdArgs> plan_sigmoid_bwd(const SigmoidBwdArgs& a, Isa isa) {
  constexpr const char* kOp = "sigmoid_bwd";
  expect_tensor(kOp, "dy", a.dy, DType::f32, {-1, -1});
  expect_tensor(kOp, "y", a.y, DType::f32, {a.dy[0], a.dy[1]});
  expect_tensor(kOp, "dx", a.dx, DType::f32, {a.dy[0], a.dy[1]});
  if (!(a.factor > 0)) throw InvalidArgument(cat(kOp, ": factor: expected more than 0, got ", a.factor));
  return choose_variant<SigmoidBwdArgs>(kOp, kSigmoidVariants, a, isa);
}

}  // namespace linnet::ops
