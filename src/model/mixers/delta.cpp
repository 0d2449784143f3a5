#include "model/mixers/delta.h"

#include <cmath>

#include "model/part_support.h"
#include "ops/activation/activation_bwd.h"
#include "ops/decay_gate/decay_gate_bwd.h"
#include "ops/linear_attn/linear_attn_bwd.h"
#include "ops/norm/norm_bwd.h"
#include "ops/short_conv/short_conv_bwd.h"

namespace linnet::model {
namespace {

constexpr float kL2NormEps = 1e-6f;  // added to the sum of squares; fla modules/l2norm.py @ bc3b101

// [N, H, D] as [N, H * D].
Tensor as_columns(const Tensor& t) { return t.reshaped({t[0], t.row_elements()}); }

// The decays as the core takes them: [N, H, D], or [N, H] where a head has one.
Tensor log_decay(const Tensor& t, ops::Decay decay) {
  return decay == ops::Decay::per_token ? t.reshaped({t[0], t[1]}) : t;
}

}  // namespace

DeltaMixer::DeltaMixer(const ModelConfig& config, ops::Decay decay)
    : kda_(config.kda),
      decay_(decay),
      hidden_(config.hidden),
      norm_eps_(config.norm_eps),
      round_decay_(config.parity.round_decay_to_bf16),
      conv_({3 * kda_.heads * kda_.head_dim, kda_.conv_width}),
      a_log_({kda_.heads}),
      dt_bias_({kda_.heads * decays()}),
      o_norm_({kda_.head_dim}) {}

void DeltaMixer::tensors(TensorTable& table, const std::string& prefix) {
  const int64_t H = kda_.heads, D = kda_.head_dim, HD = H * D, C = hidden_, W = kda_.conv_width;
  table.add_matrix(prefix + "q_proj.weight", {HD, C}, q_proj_).shard_axis = 0;
  table.add_matrix(prefix + "k_proj.weight", {HD, C}, k_proj_).shard_axis = 0;
  table.add_matrix(prefix + "v_proj.weight", {HD, C}, v_proj_).shard_axis = 0;
  table.add_f32(prefix + "q_conv1d.weight", {HD, 1, W}, conv_.view().rows(0, HD), conv_.grad().rows(0, HD), Init::conv)
      .shard_axis = 0;
  table
      .add_f32(prefix + "k_conv1d.weight", {HD, 1, W}, conv_.view().rows(HD, 2 * HD), conv_.grad().rows(HD, 2 * HD),
               Init::conv)
      .shard_axis = 0;
  table
      .add_f32(prefix + "v_conv1d.weight", {HD, 1, W}, conv_.view().rows(2 * HD, 3 * HD),
               conv_.grad().rows(2 * HD, 3 * HD), Init::conv)
      .shard_axis = 0;
  table.add_f32(prefix + "A_log", {1, 1, H, 1}, a_log_, Init::a_log).shard_axis = 2;
  table.add_f32(prefix + "dt_bias", {H * decays()}, dt_bias_, Init::dt_bias).shard_axis = 0;
  if (decay_ == ops::Decay::per_channel) {
    table.add_matrix(prefix + "f_a_proj.weight", {D, C}, f_a_);
    table.add_matrix(prefix + "f_b_proj.weight", {HD, D}, f_b_).shard_axis = 0;
  } else {
    table.add_matrix(prefix + "a_proj.weight", {H, C}, a_proj_).shard_axis = 0;
  }
  table.add_matrix(prefix + "b_proj.weight", {H, C}, b_proj_).shard_axis = 0;
  table.add_matrix(prefix + "g_a_proj.weight", {D, C}, g_a_);
  table.add_matrix(prefix + "g_b_proj.weight", {HD, D}, g_b_).shard_axis = 0;
  table.add_f32(prefix + "o_norm.weight", {D}, o_norm_, Init::ones);
  table.add_matrix(prefix + "o_proj.weight", {C, HD}, o_proj_).shard_axis = 1;
}

std::vector<StateSpec> DeltaMixer::state() const {
  const int64_t H = kda_.heads, D = kda_.head_dim;
  return {{"conv", DType::f32, {kda_.conv_width - 1, 3 * H * D}, Lifetime::per_sequence},
          {"recurrent", DType::f32, {H, D, D}, Lifetime::per_sequence}};
}

void DeltaMixer::prepare() {
  if (!round_decay_) return;
  for (const Tensor& t : {a_log_.view(), dt_bias_.view()})
    for (int64_t i = 0; i < t.elements(); ++i) t.as<float>()[i] = to_f32(to_bf16(t.as<float>()[i]));
}

DeltaMixer::Activations DeltaMixer::activations(int64_t N, Workspace& memory, bool separate) const {
  const int64_t H = kda_.heads, D = kda_.head_dim, HD = H * D, G = decays();
  Activations a;
  a.projected = memory.tensor<float>({N, 3 * HD});
  a.f = memory.tensor<float>({N, decay_ == ops::Decay::per_channel ? D : 0});
  a.g = memory.tensor<float>({N, D}), a.beta = memory.tensor<float>({N, H});
  a.z = memory.tensor<float>({N, H, G}), a.gate = memory.tensor<float>({N, H, D});
  a.log_decay = separate ? memory.tensor<float>({N, H, G}) : a.z;
  a.conv = memory.tensor<float>({N, 3 * HD});
  a.qk = separate ? memory.tensor<float>({N, 2 * H, D}) : a.conv.columns(0, 2 * HD).reshaped({N, 2 * H, D});
  a.out = memory.tensor<float>({N, H, D});
  a.normed = separate ? memory.tensor<float>({N, H, D}) : a.out;
  return a;
}

int64_t DeltaMixer::tape_bytes_per_token() const {
  const int64_t H = kda_.heads, D = kda_.head_dim;
  const int64_t low_rank = decay_ == ops::Decay::per_channel ? 2 * D : D;
  return 4 * (11 * H * D + 2 * H * decays() + low_rank + H);
}

void DeltaMixer::forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y,
                         const Exec& exec, Tape* tape) const {
  const int64_t N = x[0], H = kda_.heads, D = kda_.head_dim, HD = H * D;
  const Workspace::Scope scope(exec.workspace);
  const Activations a = activations(N, kept_in(tape, exec.workspace), tape != nullptr);
  if (tape) tape->push(a);

  // 1. Everything that reads x: one parallel region.
  const ops::GemmForm form = gemm_form(pass.step);
  const bool kda = decay_ == ops::Decay::per_channel;
  const Tensor z = as_columns(a.z);
  const ops::GemmProblem from_x[] = {
      {.x = x, .w = q_proj_, .y = a.projected.columns(0, HD)},
      {.x = x, .w = k_proj_, .y = a.projected.columns(HD, 2 * HD)},
      {.x = x, .w = v_proj_, .y = a.projected.columns(2 * HD, 3 * HD)},
      kda ? ops::GemmProblem{.x = x, .w = f_a_, .y = a.f}
          : ops::GemmProblem{.x = x, .w = a_proj_, .y = z, .exact = true},
      {.x = x, .w = g_a_, .y = a.g},
      {.x = x, .w = b_proj_, .y = a.beta, .exact = true},
  };
  apply("kda projections", ops::plan_gemm, {from_x, form}, exec);

  // 2. The low-rank gates go up again; the write strength is a sigmoid.
  const ops::GemmProblem up[] = {{.x = a.g, .w = g_b_, .y = a.gate.reshaped({N, HD})}, {.x = a.f, .w = f_b_, .y = z}};
  apply("kda gates", ops::plan_gemm, {{up, kda ? 2u : 1u}, form}, exec);
  apply("kda gates", ops::plan_sigmoid, {.x = a.beta, .y = a.beta}, exec);
  apply("kda gates", ops::plan_decay_gate,
        {.z = a.z,
         .a_log = a_log_,
         .dt_bias = dt_bias_.view().reshaped({H, decays()}),
         .log_decay = a.log_decay,
         .kind = kda_.gate,
         .lower_bound = kda_.gate_lower_bound},
        exec);

  // 3. Short convolution of q, k and v in one go, then unit-length queries and keys.
  apply("kda convolution", ops::plan_short_conv,
        {.x = a.projected,
         .weight = conv_,
         .seq_start = pass.seq_start,
         .state = state_pointers(states, kConv, exec.workspace),
         .y = a.conv},
        exec);
  const Tensor raw_qk = a.conv.columns(0, 2 * HD).reshaped({N, 2 * H, D});
  apply("kda convolution", ops::plan_l2_norm, {.x = raw_qk, .y = a.qk, .eps = kL2NormEps}, exec);

  // 4. The recurrence.
  const Tensor qk = as_columns(a.qk);
  apply("kda core", ops::plan_linear_attn,
        {.q = qk.columns(0, HD).reshaped({N, H, D}),
         .k = qk.columns(HD, 2 * HD).reshaped({N, H, D}),
         .v = a.conv.columns(2 * HD, 3 * HD).reshaped({N, H, D}),
         .log_decay = log_decay(a.log_decay, decay_),
         .beta = a.beta,
         .seq_start = pass.seq_start,
         .state = state_pointers(states, kRecurrent, exec.workspace),
         .out = a.out,
         .scale = scale(),
         .decay = decay_,
         .form = linear_attn_form(pass.step),
         .n_past = pass.n_past.data()},
        exec);

  // 5. Per-head norm times sigmoid gate, and out.
  apply("kda output", ops::plan_gated_norm,
        {.x = a.out, .gate = a.gate, .weight = o_norm_, .y = a.normed, .eps = norm_eps_}, exec);
  const ops::GemmProblem down[] = {{.x = a.normed.reshaped({N, HD}), .w = o_proj_, .y = y}};
  apply("kda output", ops::plan_gemm, {down, form}, exec);
}

void DeltaMixer::backward(const Pass& pass, std::span<const LayerState> initial, ConstTensor x, ConstTensor dy,
                          Tensor dx, const Exec& exec, Tape& tape) const {
  const int64_t N = x[0], H = kda_.heads, D = kda_.head_dim, HD = H * D;
  const Activations& a = tape.pop<Activations>();
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch);

  // 5.
  const Tensor dout = scratch.tensor<float>({N, H, D}), dgate = scratch.tensor<float>({N, H, D});
  const ops::GemmBwdProblem down[] = {gradient(a.normed.reshaped({N, HD}), o_proj_, dy, dout.reshaped({N, HD}))};
  apply("kda output bwd", ops::plan_gemm_bwd, {down}, exec);
  apply("kda output bwd", ops::plan_gated_norm_bwd,
        {.x = a.out,
         .gate = a.gate,
         .weight = o_norm_,
         .dy = dout,
         .dx = dout,
         .dgate = dgate,
         .dweight = o_norm_.grad(),
         .eps = norm_eps_},
        exec);

  // 4.
  const Tensor dconv = scratch.tensor<float>({N, 3 * HD}), dz = scratch.tensor<float>({N, H, decays()}),
               dbeta = scratch.tensor<float>({N, H});
  const Tensor qk = as_columns(a.qk);
  apply("kda core bwd", ops::plan_linear_attn_bwd,
        {.q = qk.columns(0, HD).reshaped({N, H, D}),
         .k = qk.columns(HD, 2 * HD).reshaped({N, H, D}),
         .v = a.conv.columns(2 * HD, 3 * HD).reshaped({N, H, D}),
         .log_decay = log_decay(a.log_decay, decay_),
         .beta = a.beta,
         .seq_start = pass.seq_start,
         .state = state_pointers(initial, kRecurrent, scratch),
         .dout = dout,
         .dstate = nullptr,
         .dq = dconv.columns(0, HD).reshaped({N, H, D}),
         .dk = dconv.columns(HD, 2 * HD).reshaped({N, H, D}),
         .dv = dconv.columns(2 * HD, 3 * HD).reshaped({N, H, D}),
         .dlog_decay = log_decay(dz, decay_),
         .dbeta = dbeta,
         .scale = scale(),
         .decay = decay_},
        exec);

  // 3.
  const Tensor dqk = dconv.columns(0, 2 * HD).reshaped({N, 2 * H, D});
  const ConstTensor raw_qk = a.conv.columns(0, 2 * HD).reshaped({N, 2 * H, D});
  apply("kda convolution bwd", ops::plan_l2_norm_bwd, {.x = raw_qk, .dy = dqk, .dx = dqk, .eps = kL2NormEps}, exec);
  const Tensor dprojected = scratch.tensor<float>({N, 3 * HD});
  apply("kda convolution bwd", ops::plan_short_conv_bwd,
        {.x = a.projected,
         .weight = conv_,
         .seq_start = pass.seq_start,
         .state = state_pointers(initial, kConv, scratch),
         .dy = dconv,
         .dx = dprojected,
         .dweight = conv_.grad()},
        exec);

  // 2.
  apply("kda gates bwd", ops::plan_decay_gate_bwd,
        {.z = a.z,
         .a_log = a_log_,
         .dt_bias = dt_bias_.view().reshaped({H, decays()}),
         .dlog_decay = dz,
         .dz = dz,
         .da_log = a_log_.grad(),
         .ddt_bias = dt_bias_.grad().reshaped({H, decays()}),
         .kind = kda_.gate,
         .lower_bound = kda_.gate_lower_bound},
        exec);
  apply("kda gates bwd", ops::plan_sigmoid_bwd, {.y = a.beta, .dy = dbeta, .dx = dbeta}, exec);
  const Tensor df = scratch.tensor<float>({N, D}), dg = scratch.tensor<float>({N, D});
  const bool kda = decay_ == ops::Decay::per_channel;
  const ops::GemmBwdProblem up[] = {gradient(a.g, g_b_, dgate.reshaped({N, HD}), dg),
                                    gradient(a.f, f_b_, as_columns(dz), df)};
  apply("kda gates bwd", ops::plan_gemm_bwd, {{up, kda ? 2u : 1u}}, exec);

  // 1.
  const ops::GemmBwdProblem from_x[] = {
      gradient(x, q_proj_, dprojected.columns(0, HD), dx),
      gradient(x, k_proj_, dprojected.columns(HD, 2 * HD), dx, kAdd),
      gradient(x, v_proj_, dprojected.columns(2 * HD, 3 * HD), dx, kAdd),
      kda ? gradient(x, f_a_, df, dx, kAdd) : exact(gradient(x, a_proj_, as_columns(dz), dx, kAdd)),
      gradient(x, g_a_, dg, dx, kAdd),
      exact(gradient(x, b_proj_, dbeta, dx, kAdd))};
  apply("kda projections bwd", ops::plan_gemm_bwd, {from_x}, exec);
}

}  // namespace linnet::model
