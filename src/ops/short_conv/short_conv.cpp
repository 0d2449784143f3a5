// Short causal convolution and its gradient: validation and the tables of variants.
#include "ops/short_conv/short_conv.h"

#include "ops/short_conv/short_conv_bwd.h"

namespace linnet::ops {

void short_conv_simd(const ShortConvArgs&, const Exec&) noexcept;         // short_conv_simd.cpp
void short_conv_simd_bwd(const ShortConvBwdArgs&, const Exec&) noexcept;  // short_conv_simd_bwd.cpp
size_t short_conv_simd_bwd_workspace(const ShortConvBwdArgs&, int n_threads);

namespace {

constexpr Variant<ShortConvArgs> kVariants[] = {{"simd", Isa::baseline, no_refusal, no_workspace, short_conv_simd}};
constexpr Variant<ShortConvBwdArgs> kBwdVariants[] = {
    {"simd", Isa::baseline, no_refusal, short_conv_simd_bwd_workspace, short_conv_simd_bwd}};

void expect_inputs(const char* op, const ConstTensor& x, const ConstTensor& weight) {
  expect_tensor(op, "x", x, DType::f32, {-1, -1});
  expect_tensor(op, "weight", weight, DType::f32, {x[1], -1});
  if (x[1] < 1) throw InvalidArgument(cat(op, ": x: expected at least one channel, got ", text_of(x)));
  if (weight[1] < 1 || weight[1] > 8)
    throw InvalidArgument(cat(op, ": weight: expected 1 to 8 taps, got ", text_of(weight)));
}

void expect_offsets(const char* op, const ConstTensor& seq_start, int64_t n_tokens) {
  expect_tensor(op, "seq_start", seq_start, DType::i32, {-1});
  const int64_t B = seq_start[0] - 1;
  const int32_t* start = seq_start.as<int32_t>();
  if (B < 0 || start[0] != 0 || start[B] != n_tokens)
    throw InvalidArgument(cat(op, ": seq_start: expected offsets from 0 to ", n_tokens, ", got ", text_of(seq_start),
                              B < 0 ? "" : cat(" from ", start[0], " to ", start[B])));
  for (int64_t b = 0; b < B; ++b)
    if (start[b] > start[b + 1])
      throw InvalidArgument(cat(op, ": seq_start[", b + 1, "]: expected at least ", start[b], ", got ", start[b + 1]));
}

}  // namespace

Plan<ShortConvArgs> plan_short_conv(const ShortConvArgs& a, Isa isa) {
  constexpr const char* kOp = "short_conv";
  expect_inputs(kOp, a.x, a.weight);
  expect_tensor(kOp, "y", a.y, DType::f32, {a.x[0], a.x[1]});
  expect_offsets(kOp, a.seq_start, a.x[0]);
  if (a.weight[1] > 1 && a.x[0] > 0 && !a.state)
    throw InvalidArgument(cat(kOp, ": state: expected a pointer for each sequence, got none"));
  return choose_variant<ShortConvArgs>(kOp, kVariants, a, isa);
}

Plan<ShortConvBwdArgs> plan_short_conv_bwd(const ShortConvBwdArgs& a, Isa isa) {
  constexpr const char* kOp = "short_conv_bwd";
  expect_inputs(kOp, a.x, a.weight);
  expect_offsets(kOp, a.seq_start, a.x[0]);
  expect_tensor(kOp, "dy", a.dy, DType::f32, {a.x[0], a.x[1]});
  expect_tensor(kOp, "dx", a.dx, DType::f32, {a.x[0], a.x[1]});
  expect_tensor(kOp, "dweight", a.dweight, DType::f32, {a.x[1], a.weight[1]});
  if (!a.dweight.dense())
    throw InvalidArgument(cat(kOp, ": dweight: expected dense rows, got a row stride of ", a.dweight.row_stride));
  if (a.x[0] > 0 && (a.dx.data == a.x.data || a.dx.data == a.dy.data))
    throw InvalidArgument(cat(kOp, ": dx: expected memory other than x's and dy's, got the same"));
  return choose_variant<ShortConvBwdArgs>(kOp, kBwdVariants, a, isa);
}

}  // namespace linnet::ops
