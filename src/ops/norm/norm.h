// Normalisations: contract of the op. Definition: norm_ref.cpp. Prose: README.md.
#pragma once

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

// y[n, c] = x[n, c] / sqrt(mean_c x[n, c]^2 + eps) * weight[c]
struct RmsNormArgs {
  ConstTensor x;       // [N, C] f32, row stride free
  ConstTensor weight;  // [C] f32
  Tensor y;            // [N, C] f32, row stride free; may be x
  float eps;
  bool round_before_weight =
      false;  // round the normalised value to bf16 before the weight (what HF does in bf16): parity only
};

// y[n, h, d] = x[n, h, d] / sqrt(sum_d x[n, h, d]^2 + eps). eps is added to the sum, not to the mean.
struct L2NormArgs {
  ConstTensor x;  // [N, H, D] f32, token stride free
  Tensor y;       // [N, H, D] f32, token stride free; may be x
  float eps;
};

enum class GateActivation : uint8_t { sigmoid, silu };  // KDA uses sigmoid, GDN as published uses silu

// y[n, h, d] = x[n, h, d] / sqrt(mean_d x[n, h, d]^2 + eps) * weight[d] * act(gate[n, h, d])
struct GatedNormArgs {
  ConstTensor x;       // [N, H, D] f32, token stride free
  ConstTensor gate;    // [N, H, D] f32, token stride free
  ConstTensor weight;  // [D] f32, shared by all heads
  Tensor y;            // [N, H, D] f32, token stride free; may be x
  float eps;
  GateActivation activation = GateActivation::sigmoid;
};

// Each plan_* throws InvalidArgument. N == 0 is allowed. Sums are f32, in an order that depends only on the row's
// width.
Plan<RmsNormArgs> plan_rms_norm(const RmsNormArgs& args, Isa isa = active_isa());
Plan<L2NormArgs> plan_l2_norm(const L2NormArgs& args, Isa isa = active_isa());
Plan<GatedNormArgs> plan_gated_norm(const GatedNormArgs& args, Isa isa = active_isa());

void rms_norm_ref(const RmsNormArgs& args);
void l2_norm_ref(const L2NormArgs& args);
void gated_norm_ref(const GatedNormArgs& args);

}  // namespace linnet::ops
