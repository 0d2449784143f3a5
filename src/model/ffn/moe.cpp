#include "model/ffn/moe.h"

#include <algorithm>
#include <numeric>

#include "core/text.h"
#include "model/ffn/dense.h"
#include "model/part_support.h"
#include "ops/activation/activation_bwd.h"
#include "ops/moe/moe_bwd.h"

namespace linnet::model {

MoeFfn::MoeFfn(const MoeConfig& moe, int64_t hidden, bool biased_weights)
    : moe_(moe),
      hidden_(hidden),
      biased_weights_(biased_weights),
      router_bias_({moe.experts}),
      experts_(static_cast<size_t>(moe.experts)),
      n_tokens_({moe.experts}) {}

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

MoeFfn::Activations MoeFfn::activations(int64_t N, Workspace& memory, bool separate) const {
  const int64_t E = moe_.experts, K = moe_.experts_per_token;
  const auto glu = [&](int64_t rows, int64_t width) {
    const Tensor gate = memory.tensor<float>({rows, width}), up = memory.tensor<float>({rows, width});
    return Glu{gate, up, separate ? memory.tensor<float>({rows, width}) : gate};
  };
  Activations a;
  a.logits = memory.tensor<float>({N, E});
  a.chosen = memory.tensor<int32_t>({N, K}), a.weights = memory.tensor<float>({N, K});
  a.start = memory.tensor<int32_t>({E + 1});
  a.token = memory.tensor<int32_t>({N * K}), a.position = memory.tensor<int32_t>({N, K});
  a.routed = glu(N * K, moe_.width), a.shared = glu(N, shared_width());
  a.answers = memory.tensor<float>({N * K, hidden_});
  return a;
}

int64_t MoeFfn::tape_bytes_per_token() const {
  const int64_t K = moe_.experts_per_token;
  return 4 * (moe_.experts + 4 * K + 3 * K * moe_.width + 3 * shared_width() + K * hidden_);
}

void MoeFfn::forward(Step step, ConstTensor x, Tensor y, const Exec& exec, Tape* tape) const {
  const int64_t N = x[0], E = moe_.experts;
  const ops::GemmForm form = gemm_form(step);
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch);
  const Activations a = activations(N, kept_in(tape, scratch), tape != nullptr);
  if (tape) tape->push(a);

  // 1. Route, and sort the (token, slot) pairs by expert.
  const ops::GemmProblem route[] = {{.x = x, .w = router_, .y = a.logits, .exact = true}};
  apply("moe router", ops::plan_gemm, {route, form}, exec);
  apply("moe router", ops::plan_router,
        {.logits = a.logits,
         .bias = router_bias_,
         .experts = a.chosen,
         .weights = a.weights,
         .scaling = moe_.scaling,
         .n_groups = moe_.groups,
         .topk_groups = moe_.topk_groups,
         .renormalize = moe_.renormalize,
         .biased_weights = biased_weights_,
         .score = moe_.score},
        exec);
  {
    const Trace::Scope trace("moe dispatch");
    ops::moe_dispatch({.experts = a.chosen, .expert_start = a.start, .token = a.token, .position = a.position}, exec);
  }
  const int32_t* begin = a.start.as<int32_t>();

  // 2. Gate and up products of all experts, the shared one included, are one parallel region; so are the down products.
  ops::GemmProblem* problems = scratch.take<ops::GemmProblem>(2 * E + 2);
  size_t n = 0;
  if (shared_width() > 0) {
    problems[n++] = {.x = x, .w = shared_.gate, .y = a.shared.gate};
    problems[n++] = {.x = x, .w = shared_.up, .y = a.shared.up};
  }
  for (int64_t e = 0; e < E; ++e) {
    if (begin[e] == begin[e + 1]) continue;
    const Expert& expert = experts_[static_cast<size_t>(e)];
    const int32_t* rows = a.token.as<int32_t>() + begin[e];
    problems[n++] = {.x = x, .w = expert.gate, .y = a.routed.gate.rows(begin[e], begin[e + 1]), .rows = rows};
    problems[n++] = {.x = x, .w = expert.up, .y = a.routed.up.rows(begin[e], begin[e + 1]), .rows = rows};
  }
  apply("moe experts", ops::plan_gemm, {{problems, n}, form}, exec);
  for (const Glu& g : {a.routed, a.shared})
    if (g.gate[1] > 0) apply("moe experts", ops::plan_swiglu, {.gate = g.gate, .up = g.up, .y = g.product}, exec);

  n = 0;
  if (shared_width() > 0) problems[n++] = {.x = a.shared.product, .w = shared_.down, .y = y};
  for (int64_t e = 0; e < E; ++e)
    if (begin[e] != begin[e + 1])
      problems[n++] = {.x = a.routed.product.rows(begin[e], begin[e + 1]),
                       .w = experts_[static_cast<size_t>(e)].down,
                       .y = a.answers.rows(begin[e], begin[e + 1])};
  apply("moe experts", ops::plan_gemm, {{problems, n}, form}, exec);

  // 3. The weighted sum, on top of the shared expert's answer.
  apply("moe combine", ops::plan_combine,
        {.x = a.answers, .position = a.position, .weights = a.weights, .y = y, .accumulate = shared_width() > 0}, exec);
}

void MoeFfn::backward(ConstTensor x, ConstTensor dy, Tensor dx, const Exec& exec, Tape& tape) const {
  const int64_t N = x[0], E = moe_.experts, K = moe_.experts_per_token, C = hidden_;
  const Activations& a = tape.pop<Activations>();
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch);
  const int32_t* begin = a.start.as<int32_t>();
  for (int64_t e = 0; e < E; ++e) n_tokens_.view().as<float>()[e] += static_cast<float>(begin[e + 1] - begin[e]);

  // 3.
  const Tensor danswers = scratch.tensor<float>({N * K, C}), dweights = scratch.tensor<float>({N, K});
  apply("moe combine bwd", ops::plan_combine_bwd,
        {.x = a.answers, .position = a.position, .weights = a.weights, .dy = dy, .dx = danswers, .dweights = dweights},
        exec);

  // 2. Down, activation, then gate and up. An expert's rows of dx are per pair; they are summed over each token's pairs below.
  const int64_t I = moe_.width, shared = shared_width();
  const Tensor dgate = scratch.tensor<float>({N * K, I}), dup = scratch.tensor<float>({N * K, I});
  const Tensor dshared_gate = scratch.tensor<float>({N, shared}), dshared_up = scratch.tensor<float>({N, shared});
  ops::GemmBwdProblem* problems = scratch.take<ops::GemmBwdProblem>(2 * E + 3);
  size_t n = 0;
  if (shared > 0) problems[n++] = gradient(a.shared.product, shared_.down, dy, dshared_gate);
  for (int64_t e = 0; e < E; ++e)
    if (begin[e] != begin[e + 1])
      problems[n++] = gradient(a.routed.product.rows(begin[e], begin[e + 1]), experts_[static_cast<size_t>(e)].down,
                               danswers.rows(begin[e], begin[e + 1]), dgate.rows(begin[e], begin[e + 1]));
  apply("moe experts bwd", ops::plan_gemm_bwd, {{problems, n}}, exec);
  apply("moe experts bwd", ops::plan_swiglu_bwd,
        {.gate = a.routed.gate, .up = a.routed.up, .dy = dgate, .dgate = dgate, .dup = dup}, exec);
  if (shared > 0)
    apply("moe experts bwd", ops::plan_swiglu_bwd,
          {.gate = a.shared.gate, .up = a.shared.up, .dy = dshared_gate, .dgate = dshared_gate, .dup = dshared_up},
          exec);

  // 1. With them, the router: everything that reads x.
  const Tensor dlogits = scratch.tensor<float>({N, E});
  apply("moe router bwd", ops::plan_router_bwd,
        {.logits = a.logits,
         .bias = router_bias_,
         .experts = a.chosen,
         .dweights = dweights,
         .dlogits = dlogits,
         .scaling = moe_.scaling,
         .renormalize = moe_.renormalize,
         .biased_weights = biased_weights_,
         .score = moe_.score},
        exec);
  const Tensor dpairs = danswers;  // [N * K, C]: what it held has been read
  n = 0;
  problems[n++] = exact(gradient(x, router_, dlogits, dx));
  if (shared > 0) {
    problems[n++] = gradient(x, shared_.gate, dshared_gate, dx, kAdd);
    problems[n++] = gradient(x, shared_.up, dshared_up, dx, kAdd);
  }
  for (int64_t e = 0; e < E; ++e) {
    if (begin[e] == begin[e + 1]) continue;
    const Expert& expert = experts_[static_cast<size_t>(e)];
    const Tensor dpair = dpairs.rows(begin[e], begin[e + 1]);
    problems[n] = gradient(x, expert.gate, dgate.rows(begin[e], begin[e + 1]), dpair);
    problems[n + 1] = gradient(x, expert.up, dup.rows(begin[e], begin[e + 1]), dpair, kAdd);
    problems[n].rows = problems[n + 1].rows = a.token.as<int32_t>() + begin[e];
    n += 2;
  }
  apply("moe experts bwd", ops::plan_gemm_bwd, {{problems, n}}, exec);
  const Tensor ones = scratch.tensor<float>({N, K});
  std::fill_n(ones.as<float>(), N * K, 1.0f);
  apply("moe combine bwd", ops::plan_combine,
        {.x = dpairs, .position = a.position, .weights = ones, .y = dx, .accumulate = true}, exec);
}

// Balance without an auxiliary loss: the bias of an expert that saw more than the mean goes down by the rate, of one that saw less
// up. Source: DeepSeek-V3, arXiv:2412.19437, section 2.1.2.
void MoeFfn::after_step(const StepRules& rules, StepReport& report) {
  float* seen = n_tokens_.view().as<float>();
  float* bias = router_bias_.view().as<float>();
  const float total = std::accumulate(seen, seen + moe_.experts, 0.0f), mean = total / static_cast<float>(moe_.experts);
  for (int64_t e = 0; e < moe_.experts; ++e) {
    if (mean > 0) report.max_overload = std::max(report.max_overload, seen[e] / mean - 1);
    bias[e] += seen[e] < mean ? rules.router_bias_rate : seen[e] > mean ? -rules.router_bias_rate : 0;
    seen[e] = 0;
  }
}

std::unique_ptr<Ffn> make_ffn(FfnKind kind, const ModelConfig& config) {
  if (kind == FfnKind::dense) return std::make_unique<DenseFfn>(config);
  return std::make_unique<MoeFfn>(config.moe, config.hidden, config.parity.biased_router_weights);
}

}  // namespace linnet::model
