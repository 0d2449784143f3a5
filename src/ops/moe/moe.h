// Mixture-of-experts routing: which experts a token goes to, the order in which experts see tokens, and the sum of what
// they answer. The experts' products themselves are gemm problems. Definition: moe_ref.cpp.
#pragma once

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

enum class RouterScore : uint8_t { sigmoid, softmax };

// s = score(logits); choice = s + bias; with n_groups > 1, groups are ranked by the sum of their two best choices and
// all but topk_groups of them get choice 0; experts = the K largest choices (ties: lower index first), listed in
// descending order of choice;
// w = s[experts] (or choice[experts] with biased_weights); renormalize: w /= sum w + 1e-20; w *= scaling.
// Source: DeepSeek-V3 routing as Kimi Linear uses it; biased_weights is what the published remote code computes.
struct RouterArgs {
  ConstTensor logits;  // [N, E] f32
  ConstTensor bias;    // [E] f32, or absent = 0: enters the choice only
  Tensor experts;      // [N, K] i32
  Tensor weights;      // [N, K] f32
  float scaling = 1;
  int n_groups = 1, topk_groups = 1;
  bool renormalize = true;
  bool biased_weights = false;
  RouterScore score = RouterScore::sigmoid;
};
// Throws InvalidArgument. NaN logits: a token whose logits hold a NaN gets experts 0..K-1 with NaN weights (visible, in
// range).
Plan<RouterArgs> plan_router(const RouterArgs& args, Isa isa = active_isa());
void router_ref(const RouterArgs& args);

// Sorts the N * K (token, slot) pairs by expert, tokens ascending within one expert. Deterministic.
struct DispatchArgs {
  ConstTensor experts;  // [N, K] i32, values in [0, E)
  Tensor expert_start;  // [E + 1] i32: pairs of expert e are [expert_start[e], expert_start[e + 1])
  Tensor token;         // [N * K] i32: token of each sorted pair (the row list of the experts' gemm problems)
  Tensor position;      // [N, K] i32: where pair (n, slot) went
};
void moe_dispatch(const DispatchArgs& args, const Exec& exec) noexcept;
size_t moe_dispatch_bytes(int64_t n_tokens, int64_t n_experts);  // of workspace

// y[n, c] (+)= sum_slot weights[n, slot] * x[position[n, slot], c], slots in order, f32.
struct CombineArgs {
  ConstTensor x;         // [N * K, C] f32: the experts' answers, sorted by expert
  ConstTensor position;  // [N, K] i32
  ConstTensor weights;   // [N, K] f32
  Tensor y;              // [N, C] f32, row stride free
  bool accumulate = false;
};
Plan<CombineArgs> plan_combine(const CombineArgs& args, Isa isa = active_isa());
void combine_ref(const CombineArgs& args);

}  // namespace linnet::ops
