// Element-wise activations: validation and the tables of variants.
#include "ops/activation/activation.h"

namespace linnet::ops {

void swiglu_simd(const SwigluArgs&, const Exec&) noexcept;  // activation_simd.cpp
void sigmoid_simd(const SigmoidArgs&, const Exec&) noexcept;
void add_simd(const AddArgs&, const Exec&) noexcept;

namespace {
constexpr Variant<SwigluArgs> kSwigluVariants[] = {{"simd", Isa::baseline, no_refusal, no_workspace, swiglu_simd}};
constexpr Variant<SigmoidArgs> kSigmoidVariants[] = {{"simd", Isa::baseline, no_refusal, no_workspace, sigmoid_simd}};
constexpr Variant<AddArgs> kAddVariants[] = {{"simd", Isa::baseline, no_refusal, no_workspace, add_simd}};
}  // namespace

Plan<SwigluArgs> plan_swiglu(const SwigluArgs& a, Isa isa) {
  expect_tensor("swiglu", "y", a.y, DType::f32, {-1, -1});
  expect_tensor("swiglu", "gate", a.gate, DType::f32, {a.y[0], a.y[1]});
  expect_tensor("swiglu", "up", a.up, DType::f32, {a.y[0], a.y[1]});
  return choose_variant<SwigluArgs>("swiglu", kSwigluVariants, a, isa);
}

Plan<SigmoidArgs> plan_sigmoid(const SigmoidArgs& a, Isa isa) {
  expect_tensor("sigmoid", "y", a.y, DType::f32, {-1, -1});
  expect_tensor("sigmoid", "x", a.x, DType::f32, {a.y[0], a.y[1]});
  return choose_variant<SigmoidArgs>("sigmoid", kSigmoidVariants, a, isa);
}

Plan<AddArgs> plan_add(const AddArgs& a, Isa isa) {
  expect_tensor("add", "y", a.y, DType::f32, {-1, -1});
  expect_tensor("add", "x", a.x, DType::f32, {a.y[0], a.y[1]});
  return choose_variant<AddArgs>("add", kAddVariants, a, isa);
}

}  // namespace linnet::ops
