#include "model/ffn/moe.h"

#include "core/text.h"
#include "model/ffn/dense.h"
#include "ops/activation/activation.h"
#include "ops/gemm/gemm.h"
#include "ops/moe/moe.h"

namespace linnet::model {

MoeFfn::MoeFfn(const MoeConfig& moe, int64_t hidden, bool biased_weights)
    : moe_(moe),
      hidden_(hidden),
      biased_weights_(biased_weights),
      router_bias_({moe.experts}),
      experts_(static_cast<size_t>(moe.experts)) {}

void MoeFfn::tensors(TensorTable& table, const std::string& prefix) {
  const std::string p = prefix + "block_sparse_moe.";
  const int64_t C = hidden_, I = moe_.width, shared = moe_.shared_experts * moe_.width;
  table.add_matrix(p + "gate.weight", {moe_.experts, C}, router_);
  table.add_f32(p + "gate.e_score_correction_bias", {moe_.experts}, router_bias_, Init::zeros).group =
      OptimizerGroup::frozen;
  for (size_t e = 0; e < experts_.size(); ++e) {
    const std::string expert = cat(p, "experts.", e, ".");
    table.add_matrix(expert + "w1.weight", {I, C}, experts_[e].gate).shard_axis = 0;
    table.add_matrix(expert + "w3.weight", {I, C}, experts_[e].up).shard_axis = 0;
    table.add_matrix(expert + "w2.weight", {C, I}, experts_[e].down).shard_axis = 1;
  }
  if (shared == 0) return;
  table.add_matrix(p + "shared_experts.gate_proj.weight", {shared, C}, shared_.gate).shard_axis = 0;
  table.add_matrix(p + "shared_experts.up_proj.weight", {shared, C}, shared_.up).shard_axis = 0;
  table.add_matrix(p + "shared_experts.down_proj.weight", {C, shared}, shared_.down).shard_axis = 1;
}

void MoeFfn::forward(ConstTensor x, Tensor y, const Exec& exec) const {
  const int64_t N = x[0], E = moe_.experts, K = moe_.experts_per_token, I = moe_.width,
                shared = moe_.shared_experts * I;
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch);

  // 1. Route, and sort the (token, slot) pairs by expert.
  const Tensor logits = scratch.tensor<float>({N, E});
  const ops::GemmProblem route[] = {{.x = x, .w = router_, .y = logits, .exact = true}};
  apply("moe router", ops::plan_gemm, {route}, exec);
  const Tensor chosen = scratch.tensor<int32_t>({N, K}), weights = scratch.tensor<float>({N, K});
  apply("moe router", ops::plan_router,
        {.logits = logits,
         .bias = router_bias_,
         .experts = chosen,
         .weights = weights,
         .scaling = moe_.scaling,
         .n_groups = moe_.groups,
         .topk_groups = moe_.topk_groups,
         .renormalize = moe_.renormalize,
         .biased_weights = biased_weights_,
         .score = moe_.score},
        exec);
  const Tensor start = scratch.tensor<int32_t>({E + 1}), token = scratch.tensor<int32_t>({N * K});
  const Tensor position = scratch.tensor<int32_t>({N, K});
  ops::moe_dispatch({.experts = chosen, .expert_start = start, .token = token, .position = position});
  const int32_t* begin = start.as<int32_t>();

  // 2. Gate and up products of all experts, the shared one included, are one parallel region; so are the down products.
  const Tensor gate = scratch.tensor<float>({N * K, I}), up = scratch.tensor<float>({N * K, I});
  const Tensor answers = scratch.tensor<float>({N * K, hidden_});
  const Tensor shared_gate = scratch.tensor<float>({N, shared}), shared_up = scratch.tensor<float>({N, shared});
  ops::GemmProblem* problems = scratch.take<ops::GemmProblem>(2 * E + 2);
  size_t n = 0;
  if (shared > 0) {
    problems[n++] = {.x = x, .w = shared_.gate, .y = shared_gate};
    problems[n++] = {.x = x, .w = shared_.up, .y = shared_up};
  }
  for (int64_t e = 0; e < E; ++e) {
    if (begin[e] == begin[e + 1]) continue;
    const Expert& expert = experts_[static_cast<size_t>(e)];
    const int32_t* rows = token.as<int32_t>() + begin[e];
    problems[n++] = {.x = x, .w = expert.gate, .y = gate.rows(begin[e], begin[e + 1]), .rows = rows};
    problems[n++] = {.x = x, .w = expert.up, .y = up.rows(begin[e], begin[e + 1]), .rows = rows};
  }
  apply("moe experts", ops::plan_gemm, {{problems, n}}, exec);
  apply("moe experts", ops::plan_swiglu, {.gate = gate, .up = up, .y = gate}, exec);
  if (shared > 0)
    apply("moe experts", ops::plan_swiglu, {.gate = shared_gate, .up = shared_up, .y = shared_gate}, exec);

  n = 0;
  if (shared > 0) problems[n++] = {.x = shared_gate, .w = shared_.down, .y = y};
  for (int64_t e = 0; e < E; ++e)
    if (begin[e] != begin[e + 1])
      problems[n++] = {.x = gate.rows(begin[e], begin[e + 1]),
                       .w = experts_[static_cast<size_t>(e)].down,
                       .y = answers.rows(begin[e], begin[e + 1])};
  apply("moe experts", ops::plan_gemm, {{problems, n}}, exec);

  // 3. The weighted sum, on top of the shared expert's answer.
  apply("moe combine", ops::plan_combine,
        {.x = answers, .position = position, .weights = weights, .y = y, .accumulate = shared > 0}, exec);
}

std::unique_ptr<Ffn> make_ffn(FfnKind kind, const ModelConfig& config) {
  if (kind == FfnKind::dense) return std::make_unique<DenseFfn>(config);
  return std::make_unique<MoeFfn>(config.moe, config.hidden, config.parity.biased_router_weights);
}

}  // namespace linnet::model
