// Short causal convolution: validation and the table of variants.
#include "ops/short_conv/short_conv.h"

namespace linnet::ops {

void short_conv_simd(const ShortConvArgs&, const Exec&) noexcept;  // short_conv_simd.cpp

namespace {

constexpr const char* kOp = "short_conv";
constexpr Variant<ShortConvArgs> kVariants[] = {{"simd", Isa::baseline, no_refusal, no_workspace, short_conv_simd}};

void expect_offsets(const ShortConvArgs& a) {
  expect_tensor(kOp, "seq_start", a.seq_start, DType::i32, {-1});
  const int64_t B = a.seq_start[0] - 1;
  const int32_t* start = a.seq_start.as<int32_t>();
  if (B < 0 || start[0] != 0 || start[B] != a.x[0])
    throw InvalidArgument(cat(kOp, ": seq_start: expected offsets from 0 to ", a.x[0], ", got ", text_of(a.seq_start),
                              B < 0 ? "" : cat(" from ", start[0], " to ", start[B])));
  for (int64_t b = 0; b < B; ++b)
    if (start[b] > start[b + 1])
      throw InvalidArgument(cat(kOp, ": seq_start[", b + 1, "]: expected at least ", start[b], ", got ", start[b + 1]));
}

}  // namespace

Plan<ShortConvArgs> plan_short_conv(const ShortConvArgs& a, Isa isa) {
  expect_tensor(kOp, "x", a.x, DType::f32, {-1, -1});
  expect_tensor(kOp, "weight", a.weight, DType::f32, {a.x[1], -1});
  if (a.x[1] < 1) throw InvalidArgument(cat(kOp, ": x: expected at least one channel, got ", text_of(a.x)));
  if (a.weight[1] < 1 || a.weight[1] > 8)
    throw InvalidArgument(cat(kOp, ": weight: expected 1 to 8 taps, got ", text_of(a.weight)));
  expect_tensor(kOp, "y", a.y, DType::f32, {a.x[0], a.x[1]});
  expect_offsets(a);
  if (a.weight[1] > 1 && a.x[0] > 0 && !a.state)
    throw InvalidArgument(cat(kOp, ": state: expected a pointer for each sequence, got none"));
  return choose_variant<ShortConvArgs>(kOp, kVariants, a, isa);
}

}  // namespace linnet::ops
