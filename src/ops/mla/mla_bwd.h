// Gradient of latent attention: contract. Definition: mla_ref_bwd.cpp.
#pragma once

#include "ops/mla/mla.h"

namespace linnet::ops {

// Of the whole-sequence case (n_past == 0): every sequence attends within itself. The forward is plan_mla with n_past = 0 and
// the latents as cache. Softmax weights are computed again from q and the latents, block by block: no [T, T] matrix is kept.
struct MlaBwdArgs {
  ConstTensor q;          // [N, H, Dn + Dr] f32, token stride free
  ConstTensor kv_b;       // [H * (Dn + Dv), R] f32, bf16 or f16, dense
  ConstTensor kv_b_t;     // [R, H * (Dn + Dv)] the transpose of kv_b, same type, dense
  ConstTensor latent;     // [N, R + Dr] f32, dense: (normed latent, shared key part) of each token
  ConstTensor seq_start;  // [B + 1] i32
  ConstTensor out;        // [N, H, Dv] f32, token stride free: the forward's answer
  ConstTensor dout;       // [N, H, Dv] f32, token stride free
  int64_t R, Dn, Dr, Dv;
  Tensor dq;         // [N, H, Dn + Dr] f32, token stride free, overwritten
  Tensor dlatent;    // [N, R + Dr] f32, dense, overwritten
  Tensor dkv_b;      // [H * (Dn + Dv), R] f32, dense, added to
  Tensor max_logit;  // [H] f32: raised to the largest scale * q . k seen (for QK-clip); absent: not wanted
  float scale;
  DType compute = DType::bf16;  // of the products with kv_b, as in GemmBwdProblem
};

// Throws InvalidArgument naming the tensor. Bits do not depend on the thread count.
Plan<MlaBwdArgs> plan_mla_bwd(const MlaBwdArgs& args, Isa isa = active_isa());
void mla_ref_bwd(const MlaBwdArgs& args);

}  // namespace linnet::ops
