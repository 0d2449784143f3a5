// Normalisations and their gradients: validation and the tables of variants.
#include "ops/norm/norm.h"

#include "ops/norm/norm_bwd.h"

namespace linnet::ops {

void rms_norm_simd(const RmsNormArgs&, const Exec&) noexcept;  // norm_simd.cpp
void l2_norm_simd(const L2NormArgs&, const Exec&) noexcept;
void gated_norm_simd(const GatedNormArgs&, const Exec&) noexcept;
void rms_norm_simd_bwd(const RmsNormBwdArgs&, const Exec&) noexcept;  // norm_simd_bwd.cpp
size_t rms_norm_simd_bwd_workspace(const RmsNormBwdArgs&, int n_threads);
void l2_norm_simd_bwd(const L2NormBwdArgs&, const Exec&) noexcept;
void gated_norm_simd_bwd(const GatedNormBwdArgs&, const Exec&) noexcept;
size_t gated_norm_simd_bwd_workspace(const GatedNormBwdArgs&, int n_threads);

namespace {

constexpr Variant<RmsNormArgs> kRmsNormVariants[] = {{"simd", Isa::baseline, no_refusal, no_workspace, rms_norm_simd}};
constexpr Variant<L2NormArgs> kL2NormVariants[] = {{"simd", Isa::baseline, no_refusal, no_workspace, l2_norm_simd}};
constexpr Variant<GatedNormArgs> kGatedNormVariants[] = {
    {"simd", Isa::baseline, no_refusal, no_workspace, gated_norm_simd}};
constexpr Variant<RmsNormBwdArgs> kRmsNormBwdVariants[] = {
    {"simd", Isa::baseline, no_refusal, rms_norm_simd_bwd_workspace, rms_norm_simd_bwd}};
constexpr Variant<L2NormBwdArgs> kL2NormBwdVariants[] = {
    {"simd", Isa::baseline, no_refusal, no_workspace, l2_norm_simd_bwd}};
constexpr Variant<GatedNormBwdArgs> kGatedNormBwdVariants[] = {
    {"simd", Isa::baseline, no_refusal, gated_norm_simd_bwd_workspace, gated_norm_simd_bwd}};

void expect_positive(const char* op, const char* what, int64_t extent) {
  if (extent < 1) throw InvalidArgument(cat(op, ": ", what, ": expected at least 1, got ", extent));
}

// The sum of squares may be zero, so eps keeps the division finite; 0 is the caller's choice, a negative value an
// error.
void expect_eps(const char* op, float eps) {
  if (!(eps >= 0)) throw InvalidArgument(cat(op, ": eps: expected 0 or more, got ", eps));
}

void expect_apart(const char* op, const char* name, const Tensor& t, const char* other_name, const ConstTensor& other) {
  if (t.elements() > 0 && t.data == other.data)
    throw InvalidArgument(cat(op, ": ", name, ": expected memory other than ", other_name, "'s, got the same"));
}

}  // namespace

Plan<RmsNormArgs> plan_rms_norm(const RmsNormArgs& a, Isa isa) {
  constexpr const char* kOp = "rms_norm";
  expect_tensor(kOp, "x", a.x, DType::f32, {-1, -1});
  expect_positive(kOp, "width of x", a.x[1]);
  expect_tensor(kOp, "weight", a.weight, DType::f32, {a.x[1]});
  expect_tensor(kOp, "y", a.y, DType::f32, {a.x[0], a.x[1]});
  expect_eps(kOp, a.eps);
  return choose_variant<RmsNormArgs>(kOp, kRmsNormVariants, a, isa);
}

Plan<L2NormArgs> plan_l2_norm(const L2NormArgs& a, Isa isa) {
  constexpr const char* kOp = "l2_norm";
  expect_tensor(kOp, "x", a.x, DType::f32, {-1, -1, -1});
  expect_positive(kOp, "heads of x", a.x[1]);
  expect_positive(kOp, "head width of x", a.x[2]);
  expect_tensor(kOp, "y", a.y, DType::f32, {a.x[0], a.x[1], a.x[2]});
  expect_eps(kOp, a.eps);
  return choose_variant<L2NormArgs>(kOp, kL2NormVariants, a, isa);
}

Plan<GatedNormArgs> plan_gated_norm(const GatedNormArgs& a, Isa isa) {
  constexpr const char* kOp = "gated_norm";
  expect_tensor(kOp, "x", a.x, DType::f32, {-1, -1, -1});
  expect_positive(kOp, "heads of x", a.x[1]);
  expect_positive(kOp, "head width of x", a.x[2]);
  expect_tensor(kOp, "gate", a.gate, DType::f32, {a.x[0], a.x[1], a.x[2]});
  expect_tensor(kOp, "weight", a.weight, DType::f32, {a.x[2]});
  expect_tensor(kOp, "y", a.y, DType::f32, {a.x[0], a.x[1], a.x[2]});
  expect_eps(kOp, a.eps);
  return choose_variant<GatedNormArgs>(kOp, kGatedNormVariants, a, isa);
}

Plan<RmsNormBwdArgs> plan_rms_norm_bwd(const RmsNormBwdArgs& a, Isa isa) {
  constexpr const char* kOp = "rms_norm_bwd";
  expect_tensor(kOp, "x", a.x, DType::f32, {-1, -1});
  expect_positive(kOp, "width of x", a.x[1]);
  expect_tensor(kOp, "weight", a.weight, DType::f32, {a.x[1]});
  expect_tensor(kOp, "dy", a.dy, DType::f32, {a.x[0], a.x[1]});
  expect_tensor(kOp, "dx", a.dx, DType::f32, {a.x[0], a.x[1]});
  expect_tensor(kOp, "dweight", a.dweight, DType::f32, {a.x[1]});
  if (a.accumulate) expect_apart(kOp, "dx", a.dx, "dy", a.dy);
  expect_eps(kOp, a.eps);
  return choose_variant<RmsNormBwdArgs>(kOp, kRmsNormBwdVariants, a, isa);
}

Plan<L2NormBwdArgs> plan_l2_norm_bwd(const L2NormBwdArgs& a, Isa isa) {
  constexpr const char* kOp = "l2_norm_bwd";
  expect_tensor(kOp, "x", a.x, DType::f32, {-1, -1, -1});
  expect_positive(kOp, "heads of x", a.x[1]);
  expect_positive(kOp, "head width of x", a.x[2]);
  expect_tensor(kOp, "dy", a.dy, DType::f32, {a.x[0], a.x[1], a.x[2]});
  expect_tensor(kOp, "dx", a.dx, DType::f32, {a.x[0], a.x[1], a.x[2]});
  expect_eps(kOp, a.eps);
  return choose_variant<L2NormBwdArgs>(kOp, kL2NormBwdVariants, a, isa);
}

Plan<GatedNormBwdArgs> plan_gated_norm_bwd(const GatedNormBwdArgs& a, Isa isa) {
  constexpr const char* kOp = "gated_norm_bwd";
  expect_tensor(kOp, "x", a.x, DType::f32, {-1, -1, -1});
  expect_positive(kOp, "heads of x", a.x[1]);
  expect_positive(kOp, "head width of x", a.x[2]);
  expect_tensor(kOp, "gate", a.gate, DType::f32, {a.x[0], a.x[1], a.x[2]});
  expect_tensor(kOp, "weight", a.weight, DType::f32, {a.x[2]});
  expect_tensor(kOp, "dy", a.dy, DType::f32, {a.x[0], a.x[1], a.x[2]});
  expect_tensor(kOp, "dx", a.dx, DType::f32, {a.x[0], a.x[1], a.x[2]});
  expect_tensor(kOp, "dgate", a.dgate, DType::f32, {a.x[0], a.x[1], a.x[2]});
  expect_tensor(kOp, "dweight", a.dweight, DType::f32, {a.x[2]});
  expect_apart(kOp, "dgate", a.dgate, "dy", a.dy);
  expect_apart(kOp, "dgate", a.dgate, "dx", a.dx);
  expect_eps(kOp, a.eps);
  return choose_variant<GatedNormBwdArgs>(kOp, kGatedNormBwdVariants, a, isa);
}

}  // namespace linnet::ops
