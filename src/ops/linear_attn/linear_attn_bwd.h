// Gradient of the recurrent core: contract. Definition: linear_attn_ref_bwd.cpp. Prose and chunk algebra: README.md.
#pragma once

#include "ops/linear_attn/linear_attn.h"

namespace linnet::ops {

// The forward's arguments again, dLoss/dout, and where the gradients go. Nothing of the forward is saved: what the backward
// needs of it (chunk factors, the states at chunk starts) is computed again. Gradients are overwritten, not accumulated,
// and must not alias an input.
struct LinearAttnBwdArgs {
  ConstTensor q, k;           // [N, Hk, Dk] f32, token stride free
  ConstTensor v;              // [N, H, Dv] f32, token stride free
  ConstTensor log_decay;      // absent, [H], [N, H] or [N, H, Dk] f32 as `decay` says
  ConstTensor beta;           // [N, H] f32; absent = 1
  ConstTensor seq_start;      // [B + 1] i32
  const float* const* state;  // [B] pointers to S_0 [H, Dk, Dv] f32; a null array or entry is a state of zeros
  ConstTensor dout;           // [N, H, Dv] f32, token stride free
  float* const* dstate;  // [B] pointers to [H, Dk, Dv] f32: in: dLoss/dS_T, out: dLoss/dS_0. A null array or entry:
                         // dS_T = 0, dS_0 not wanted. Untouched for an empty sequence (dS_0 = dS_T)
  Tensor dq, dk;         // [N, Hk, Dk] f32, token stride free; summed over the value heads of a key head
  Tensor dv;             // [N, H, Dv] f32, token stride free
  Tensor dlog_decay;     // shape of log_decay, token stride free; absent: not wanted
  Tensor dbeta;          // [N, H] f32; absent: not wanted
  float scale = 1;
  Decay decay = Decay::per_channel;
  bool delta = true;
};

// Where a decay underflows to 0 its gradient is 0. Bits do not depend on the thread count nor on neighbours in the pack. Throws
// InvalidArgument naming the tensor, Unsupported with the reasons.
Plan<LinearAttnBwdArgs> plan_linear_attn_bwd(const LinearAttnBwdArgs& args, Isa isa = active_isa());
std::span<const Variant<LinearAttnBwdArgs>> linear_attn_bwd_variants();

// The definition: token by token, backwards, in double.
void linear_attn_ref_bwd(const LinearAttnBwdArgs& args);

}  // namespace linnet::ops
