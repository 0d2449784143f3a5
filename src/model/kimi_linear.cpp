#include "model/kimi_linear.h"

#include "core/text.h"
#include "model/residual/plain.h"
#include "ops/embed/embed.h"
#include "ops/gemm/gemm.h"
#include "ops/norm/norm.h"

namespace linnet::model {

KimiLinear::KimiLinear(ModelConfig config, DType cache_dtype)
    : config_(std::move(config)), final_norm_({config_.hidden}) {
  const int64_t C = config_.hidden, V = config_.vocab_size;
  TensorRow& embed = table_.add_matrix("model.embed_tokens.weight", {V, C}, embed_);
  embed.group = OptimizerGroup::adamw, embed.shard_axis = 0;
  for (int64_t layer = 0; layer < config_.n_layers(); ++layer) {
    const size_t l = static_cast<size_t>(layer);
    const std::string prefix = cat("model.layers.", layer, ".");
    Block block{.mixer_norm = F32Parameter({C}),
                .ffn_norm = F32Parameter({C}),
                .mixer = make_mixer(config_.mixers[l], config_, cache_dtype),
                .ffn = make_ffn(config_.ffns[l], config_)};
    table_.add_f32(prefix + "input_layernorm.weight", {C}, block.mixer_norm, Init::ones);
    block.mixer->tensors(table_, prefix + "self_attn.");
    table_.add_f32(prefix + "post_attention_layernorm.weight", {C}, block.ffn_norm, Init::ones);
    block.ffn->tensors(table_, prefix);
    state_specs_.push_back(block.mixer->state());
    blocks_.push_back(std::move(block));
  }
  table_.add_f32("model.norm.weight", {C}, final_norm_, Init::ones);
  if (config_.tie_embeddings) return;
  TensorRow& head = table_.add_matrix("lm_head.weight", {V, C}, head_);
  head.group = OptimizerGroup::adamw, head.shard_axis = 0;
}

void KimiLinear::prepare() {
  if (config_.tie_embeddings) head_ = embed_;
  for (Block& block : blocks_) block.mixer->prepare();
}

// The whole forward pass:  x = embed(ids);  per layer  x += mixer(norm(x)),  x += ffn(norm(x));  out = norm(x).
void KimiLinear::forward(const Pass& pass, const Exec& exec, const Observer* observe) const {
  const int64_t N = pass.n_tokens(), C = config_.hidden;
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch);
  const Tensor stream = scratch.tensor<float>({N, C}), normed = scratch.tensor<float>({N, C}),
               out = scratch.tensor<float>({N, C});
  const auto norm = [&](ConstTensor x, const F32Parameter& weight, Tensor y) {
    apply("norms", ops::plan_rms_norm,
          {.x = x,
           .weight = weight,
           .y = y,
           .eps = config_.norm_eps,
           .round_before_weight = config_.parity.round_norm_before_weight},
          exec);
  };

  ops::embed({.ids = pass.ids, .table = embed_, .y = stream});
  PlainResidual residual(stream, exec);
  for (int64_t layer = 0; layer < config_.n_layers(); ++layer) {
    if (observe) (*observe)(layer, residual.read());
    const Block& block = blocks_[static_cast<size_t>(layer)];

    norm(residual.read(), block.mixer_norm, normed);
    block.mixer->forward(pass, pass.layer_states(layer), normed, out, exec);
    residual.write(out);

    norm(residual.read(), block.ffn_norm, normed);
    block.ffn->forward(normed, out, exec);
    residual.write(out);
  }
  const ConstTensor x = residual.read();
  for (size_t i = 0; i < pass.output_rows.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i);
    std::memcpy(pass.output.row<float>(row), x.row<float>(pass.output_rows[i]), static_cast<size_t>(C) * sizeof(float));
  }
  norm(pass.output, final_norm_, pass.output);
  if (observe) (*observe)(config_.n_layers(), pass.output);
}

void KimiLinear::head(ConstTensor hidden, Tensor logits, const Exec& exec) const {
  const ops::GemmProblem problem[] = {{.x = hidden, .w = head_, .y = logits}};
  apply("head", ops::plan_gemm, {problem}, exec);
}

}  // namespace linnet::model
