#include "model/mixers/kda.h"

#include <cmath>

#include "ops/activation/activation.h"
#include "ops/decay_gate/decay_gate.h"
#include "ops/gemm/gemm.h"
#include "ops/linear_attn/linear_attn.h"
#include "ops/norm/norm.h"
#include "ops/short_conv/short_conv.h"

namespace linnet::model {
namespace {

constexpr float kL2NormEps = 1e-6f;  // added to the sum of squares; fla modules/l2norm.py @ bc3b101

}  // namespace

KdaMixer::KdaMixer(const ModelConfig& config)
    : kda_(config.kda),
      hidden_(config.hidden),
      norm_eps_(config.norm_eps),
      round_decay_(config.parity.round_decay_to_bf16),
      conv_({3 * kda_.heads * kda_.head_dim, kda_.conv_width}),
      a_log_({kda_.heads}),
      dt_bias_({kda_.heads * kda_.head_dim}),
      o_norm_({kda_.head_dim}) {}

void KdaMixer::tensors(TensorTable& table, const std::string& prefix) {
  const int64_t H = kda_.heads, D = kda_.head_dim, HD = H * D, C = hidden_, W = kda_.conv_width;
  table.add_matrix(prefix + "q_proj.weight", {HD, C}, q_proj_).shard_axis = 0;
  table.add_matrix(prefix + "k_proj.weight", {HD, C}, k_proj_).shard_axis = 0;
  table.add_matrix(prefix + "v_proj.weight", {HD, C}, v_proj_).shard_axis = 0;
  table.add_f32(prefix + "q_conv1d.weight", {HD, 1, W}, conv_.view().rows(0, HD), Init::conv).shard_axis = 0;
  table.add_f32(prefix + "k_conv1d.weight", {HD, 1, W}, conv_.view().rows(HD, 2 * HD), Init::conv).shard_axis = 0;
  table.add_f32(prefix + "v_conv1d.weight", {HD, 1, W}, conv_.view().rows(2 * HD, 3 * HD), Init::conv).shard_axis = 0;
  table.add_f32(prefix + "A_log", {1, 1, H, 1}, a_log_, Init::a_log).shard_axis = 2;
  table.add_f32(prefix + "dt_bias", {HD}, dt_bias_, Init::dt_bias).shard_axis = 0;
  table.add_matrix(prefix + "f_a_proj.weight", {D, C}, f_a_);
  table.add_matrix(prefix + "f_b_proj.weight", {HD, D}, f_b_).shard_axis = 0;
  table.add_matrix(prefix + "b_proj.weight", {H, C}, b_proj_).shard_axis = 0;
  table.add_matrix(prefix + "g_a_proj.weight", {D, C}, g_a_);
  table.add_matrix(prefix + "g_b_proj.weight", {HD, D}, g_b_).shard_axis = 0;
  table.add_f32(prefix + "o_norm.weight", {D}, o_norm_, Init::ones);
  table.add_matrix(prefix + "o_proj.weight", {C, HD}, o_proj_).shard_axis = 1;
}

std::vector<StateSpec> KdaMixer::state() const {
  const int64_t H = kda_.heads, D = kda_.head_dim;
  return {{"conv", DType::f32, {kda_.conv_width - 1, 3 * H * D}, Lifetime::per_sequence},
          {"recurrent", DType::f32, {H, D, D}, Lifetime::per_sequence}};
}

void KdaMixer::prepare() {
  if (!round_decay_) return;
  for (const Tensor& t : {a_log_.view(), dt_bias_.view()})
    for (int64_t i = 0; i < t.elements(); ++i) t.as<float>()[i] = to_f32(to_bf16(t.as<float>()[i]));
}

void KdaMixer::forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y,
                       const Exec& exec) const {
  const int64_t N = x[0], B = pass.n_seqs(), H = kda_.heads, D = kda_.head_dim, HD = H * D;
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch);

  // 1. Everything that reads x: one parallel region.
  const Tensor projected = scratch.tensor<float>({N, 3 * HD});  // q, k, v before the convolution
  const Tensor f = scratch.tensor<float>({N, D}), g = scratch.tensor<float>({N, D}),
               beta = scratch.tensor<float>({N, H});
  const ops::GemmProblem from_x[] = {
      {.x = x, .w = q_proj_, .y = projected.columns(0, HD)},
      {.x = x, .w = k_proj_, .y = projected.columns(HD, 2 * HD)},
      {.x = x, .w = v_proj_, .y = projected.columns(2 * HD, 3 * HD)},
      {.x = x, .w = f_a_, .y = f},
      {.x = x, .w = g_a_, .y = g},
      {.x = x, .w = b_proj_, .y = beta, .exact = true},
  };
  apply("kda projections", ops::plan_gemm, {from_x}, exec);

  // 2. The two low-rank gates go up again; the write strength is a sigmoid.
  const Tensor decay = scratch.tensor<float>({N, HD}), gate = scratch.tensor<float>({N, HD});
  const ops::GemmProblem up[] = {{.x = f, .w = f_b_, .y = decay}, {.x = g, .w = g_b_, .y = gate}};
  apply("kda gates", ops::plan_gemm, {up}, exec);
  apply("kda gates", ops::plan_sigmoid, {.x = beta, .y = beta}, exec);
  const Tensor log_decay = decay.reshaped({N, H, D});
  apply("kda gates", ops::plan_decay_gate,
        {.z = log_decay,
         .a_log = a_log_,
         .dt_bias = dt_bias_.view().reshaped({H, D}),
         .log_decay = log_decay,
         .kind = kda_.gate,
         .lower_bound = kda_.gate_lower_bound},
        exec);

  // 3. Short convolution of q, k and v in one go, then unit-length queries and keys.
  float** conv_state = scratch.take<float*>(B);
  float** recurrent_state = scratch.take<float*>(B);
  for (int64_t b = 0; b < B; ++b) {
    const LayerState& state = states[static_cast<size_t>(b)];
    conv_state[b] = reinterpret_cast<float*>(state[kConv]);
    recurrent_state[b] = reinterpret_cast<float*>(state[kRecurrent]);
  }
  const Tensor qkv = scratch.tensor<float>({N, 3 * HD});
  apply("kda convolution", ops::plan_short_conv,
        {.x = projected, .weight = conv_, .seq_start = pass.seq_start, .state = conv_state, .y = qkv}, exec);
  const Tensor qk = qkv.columns(0, 2 * HD).reshaped({N, 2 * H, D});
  apply("kda convolution", ops::plan_l2_norm, {.x = qk, .y = qk, .eps = kL2NormEps}, exec);

  // 4. The recurrence.
  const Tensor out = scratch.tensor<float>({N, H, D});
  apply("kda core", ops::plan_linear_attn,
        {.q = qkv.columns(0, HD).reshaped({N, H, D}),
         .k = qkv.columns(HD, 2 * HD).reshaped({N, H, D}),
         .v = qkv.columns(2 * HD, 3 * HD).reshaped({N, H, D}),
         .log_decay = log_decay,
         .beta = beta,
         .seq_start = pass.seq_start,
         .state = recurrent_state,
         .out = out,
         .scale = 1 / std::sqrt(static_cast<float>(D))},
        exec);

  // 5. Per-head norm times sigmoid gate, and out.
  apply("kda output", ops::plan_gated_norm,
        {.x = out, .gate = gate.reshaped({N, H, D}), .weight = o_norm_, .y = out, .eps = norm_eps_}, exec);
  const ops::GemmProblem down[] = {{.x = out.reshaped({N, HD}), .w = o_proj_, .y = y}};
  apply("kda output", ops::plan_gemm, {down}, exec);
}

}  // namespace linnet::model
