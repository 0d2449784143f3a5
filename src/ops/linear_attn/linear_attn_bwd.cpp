// Validation of the arguments of the recurrent core's gradient, and the table of its variants.
#include "ops/linear_attn/linear_attn_bwd.h"

#include "ops/linear_attn/linear_attn_simd_bwd.h"

namespace linnet::ops {
namespace {

constexpr const char* kOp = "linear_attn_bwd";

constexpr Variant<LinearAttnBwdArgs> kVariants[] = {
    {"simd", Isa::baseline, no_refusal<LinearAttnBwdArgs>, linear_attn_simd_bwd_workspace_bytes, linear_attn_simd_bwd},
};

void expect_decay(const LinearAttnBwdArgs& a, const char* name, const ConstTensor& t, int64_t N, int64_t H,
                  int64_t Dk) {
  switch (a.decay) {
    case Decay::none:
      if (t) throw InvalidArgument(cat(kOp, ": ", name, ": expected absent, got ", text_of(t)));
      break;
    case Decay::per_head: expect_tensor(kOp, name, t, DType::f32, {H}); break;
    case Decay::per_token: expect_tensor(kOp, name, t, DType::f32, {N, H}); break;
    case Decay::per_channel: expect_tensor(kOp, name, t, DType::f32, {N, H, Dk}); break;
  }
}

void expect_sequences(const LinearAttnBwdArgs& a, int64_t N) {
  expect_tensor(kOp, "seq_start", a.seq_start, DType::i32, {-1});
  const int64_t B = a.seq_start[0] - 1;
  if (B < 0) throw InvalidArgument(cat(kOp, ": seq_start: expected [B + 1] i32, got ", text_of(a.seq_start)));
  const int32_t* start = a.seq_start.as<int32_t>();
  if (start[0] != 0) throw InvalidArgument(cat(kOp, ": seq_start[0]: expected 0, got ", start[0]));
  for (int64_t b = 0; b < B; ++b)
    if (start[b + 1] < start[b])
      throw InvalidArgument(cat(kOp, ": seq_start[", b + 1, "]: expected at least seq_start[", b, "] = ", start[b],
                                ", got ", start[b + 1]));
  if (start[B] != N) throw InvalidArgument(cat(kOp, ": seq_start[", B, "]: expected N = ", N, ", got ", start[B]));
}

void validate(const LinearAttnBwdArgs& a) {
  expect_tensor(kOp, "q", a.q, DType::f32, {-1, -1, -1});
  const int64_t N = a.q[0], Hk = a.q[1], Dk = a.q[2];
  expect_tensor(kOp, "k", a.k, DType::f32, {N, Hk, Dk});
  expect_tensor(kOp, "v", a.v, DType::f32, {N, -1, -1});
  const int64_t H = a.v[1], Dv = a.v[2];
  if (Hk < 1 || Dk < 1)
    throw InvalidArgument(cat(kOp, ": q: expected at least one head and one channel, got ", text_of(a.q)));
  if (H < 1 || Dv < 1)
    throw InvalidArgument(cat(kOp, ": v: expected at least one head and one channel, got ", text_of(a.v)));
  if (H % Hk != 0)
    throw InvalidArgument(cat(kOp, ": v: expected a multiple of the ", Hk, " key heads, got ", H, " value heads"));
  expect_decay(a, "log_decay", a.log_decay, N, H, Dk);
  if (a.beta) expect_tensor(kOp, "beta", a.beta, DType::f32, {N, H});
  expect_sequences(a, N);
  expect_tensor(kOp, "dout", a.dout, DType::f32, {N, H, Dv});
  expect_tensor(kOp, "dq", a.dq, DType::f32, {N, Hk, Dk});
  expect_tensor(kOp, "dk", a.dk, DType::f32, {N, Hk, Dk});
  expect_tensor(kOp, "dv", a.dv, DType::f32, {N, H, Dv});
  if (a.dlog_decay) expect_decay(a, "dlog_decay", a.dlog_decay, N, H, Dk);
  if (a.dbeta) expect_tensor(kOp, "dbeta", a.dbeta, DType::f32, {N, H});
}

}  // namespace

Plan<LinearAttnBwdArgs> plan_linear_attn_bwd(const LinearAttnBwdArgs& args, Isa isa) {
  validate(args);
  return choose_variant(kOp, linear_attn_bwd_variants(), args, isa);
}

std::span<const Variant<LinearAttnBwdArgs>> linear_attn_bwd_variants() { return kVariants; }

}  // namespace linnet::ops
