#include "model/kimi_linear.h"

#include <algorithm>
#include <cstring>

#include "core/bulk.h"
#include "core/text.h"
#include "model/part_support.h"
#include "model/residual/plain.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/embed/embed.h"
#include "ops/embed/embed_bwd.h"
#include "ops/gemm/gemm.h"
#include "ops/norm/norm_bwd.h"

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
  for (Block& block : blocks_) block.mixer->prepare();
}

void KimiLinear::norm(ConstTensor x, const F32Parameter& weight, Tensor y, const Exec& exec) const {
  apply("norms", ops::plan_rms_norm,
        {.x = x,
         .weight = weight,
         .y = y,
         .eps = config_.norm_eps,
         .round_before_weight = config_.parity.round_norm_before_weight},
        exec);
}

void KimiLinear::embed(ConstTensor ids, Tensor stream, const Exec& exec) const {
  const Trace::Scope scope("embedding");
  ops::embed({.ids = ids, .table = embed_, .y = stream}, exec);
}

// The whole forward pass:  x = embed(ids);  per layer  x += mixer(norm(x)),  x += ffn(norm(x));  out = norm(x).
void KimiLinear::forward(const Pass& pass, const Exec& exec, const Observer* observe) const {
  const int64_t N = pass.n_tokens(), C = config_.hidden;
  const Workspace::Scope scope(exec.workspace);
  const Tensor stream = exec.workspace.tensor<float>({N, C});
  embed(pass.ids, stream, exec);
  for (int64_t layer = 0; layer < config_.n_layers(); ++layer) {
    if (observe) (*observe)(layer, stream);
    block_forward(pass, layer, stream, exec, nullptr);
  }
  for (size_t i = 0; i < pass.output_rows.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i);
    std::memcpy(pass.output.row<float>(row), stream.row<float>(pass.output_rows[i]),
                static_cast<size_t>(C) * sizeof(float));
  }
  norm(pass.output, final_norm_, pass.output, exec);
  if (observe) (*observe)(config_.n_layers(), pass.output);
}

void KimiLinear::block_forward(const Pass& pass, int64_t layer, Tensor stream, const Exec& exec, Tape* tape) const {
  const int64_t N = stream[0], C = config_.hidden;
  const Block& block = blocks_[static_cast<size_t>(layer)];
  const Workspace::Scope scope(exec.workspace);
  Workspace& memory = kept_in(tape, exec.workspace);
  const auto matrix = [&](Workspace& in) { return in.tensor<float>({N, C}); };
  const auto copy_of = [&](const Tensor& t) {
    const Trace::Scope trace("kept activations");
    const Tensor copy = matrix(memory);
    copy_bytes(copy.data, t.data, t.bytes(), exec);
    return copy;
  };
  PlainResidual residual(stream, exec);
  const Tensor out = matrix(exec.workspace);
  BlockActivations a;
  a.x_normed = matrix(memory), a.h_normed = tape ? matrix(memory) : a.x_normed;

  if (tape) a.x = copy_of(stream);
  norm(residual.read(), block.mixer_norm, a.x_normed, exec);
  block.mixer->forward(pass, pass.layer_states(layer), a.x_normed, out, exec, tape);
  residual.write(out);

  if (tape) a.h = copy_of(stream);
  norm(residual.read(), block.ffn_norm, a.h_normed, exec);
  block.ffn->forward(pass.step, a.h_normed, out, exec, tape);
  residual.write(out);
  if (tape) tape->push(a);
}

// dstream [N, C]: in: the gradient of the stream that leaves the block; out: of the one that enters it.
void KimiLinear::block_backward(const Pass& pass, int64_t layer, Tensor dstream, const Exec& exec, Tape& tape) const {
  const Block& block = blocks_[static_cast<size_t>(layer)];
  const BlockActivations& a = tape.pop<BlockActivations>();
  const Workspace::Scope scope(exec.workspace);
  const Tensor dnormed = exec.workspace.tensor<float>({dstream[0], config_.hidden});
  const auto through_norm = [&](ConstTensor x, const F32Parameter& weight) {
    apply("norms bwd", ops::plan_rms_norm_bwd,
          {.x = x,
           .weight = weight,
           .dy = dnormed,
           .dx = dstream,
           .dweight = weight.grad(),
           .eps = config_.norm_eps,
           .accumulate = true},
          exec);
  };
  block.ffn->backward(a.h_normed, dstream, dnormed, exec, tape);
  through_norm(a.h, block.ffn_norm);
  block.mixer->backward(pass, pass.layer_initial(layer), a.x_normed, dstream, dnormed, exec, tape);
  through_norm(a.x, block.mixer_norm);
}

void KimiLinear::start_states(const Pass& pass, int64_t layer, const Exec& exec) const {
  const Trace::Scope scope("states");
  const std::vector<StateSpec>& specs = state_specs_[static_cast<size_t>(layer)];
  const std::span<const LayerState> states = pass.layer_states(layer), initial = pass.layer_initial(layer);
  exec.pool.parallel_for(static_cast<int64_t>(states.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (size_t b = static_cast<size_t>(begin); b < static_cast<size_t>(end); ++b)
      for (size_t i = 0; i < specs.size(); ++i) {
        if (specs[i].lifetime != Lifetime::per_sequence) continue;
        const size_t bytes = static_cast<size_t>(specs[i].bytes());
        if (initial.empty()) std::memset(states[b][i].data, 0, bytes);
        else std::memcpy(states[b][i].data, initial[b][i].data, bytes);
      }
  });
}

// Forward, loss, and backward in the opposite order. With Recompute::layer the tape holds one layer at a time.
void KimiLinear::train(const Pass& pass, const Loss& loss, Recompute recompute, Workspace& memory,
                       const Exec& exec) const {
  const int64_t N = pass.n_tokens(), C = config_.hidden, n_layers = config_.n_layers();
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch), memory_scope(memory);
  Tape tape(memory);
  const bool keep_all = recompute == Recompute::none && !loss.forward_only;
  const Tensor stream = scratch.tensor<float>({N, C}), normed = scratch.tensor<float>({N, C});
  std::vector<Tensor> inputs;  // of each layer, to run it again

  embed(pass.ids, stream, exec);
  for (int64_t layer = 0; layer < n_layers; ++layer) {
    if (!keep_all && !loss.forward_only) {
      inputs.push_back(memory.tensor<float>({N, C}));
      copy_bytes(inputs.back().data, stream.data, stream.bytes(), exec);
    }
    start_states(pass, layer, exec);
    if (keep_all) {
      block_forward(pass, layer, stream, exec, &tape);
    } else {
      const Workspace::Scope layer_scope(memory);
      Tape dropped(memory);
      block_forward(pass, layer, stream, exec, &dropped);
    }
  }
  norm(stream, final_norm_, normed, exec);
  const Tensor dstream = loss.forward_only ? Tensor() : scratch.tensor<float>({N, C});
  apply("head", ops::plan_cross_entropy,
        {.hidden = normed,
         .w = head_weight().w,
         .w_t = loss.forward_only ? ConstTensor() : head_weight().w_t,
         .target = loss.target,
         .weight = loss.weight,
         .nll = loss.nll,
         .lse = {},
         .dhidden = dstream,
         .dw = loss.forward_only ? Tensor() : head_weight().grad,
         .scale = loss.scale,
         .z_loss = loss.z_loss,
         .compute = head_weight().compute()},
        exec);
  if (loss.forward_only) return;

  apply("norms bwd", ops::plan_rms_norm_bwd,
        {.x = stream,
         .weight = final_norm_,
         .dy = dstream,
         .dx = dstream,
         .dweight = final_norm_.grad(),
         .eps = config_.norm_eps},
        exec);
  for (int64_t layer = n_layers - 1; layer >= 0; --layer) {
    const Workspace::Scope layer_scope(memory);
    if (!keep_all) {
      copy_bytes(stream.data, inputs[static_cast<size_t>(layer)].data, stream.bytes(), exec);
      start_states(pass, layer, exec);
      block_forward(pass, layer, stream, exec, &tape);
    }
    block_backward(pass, layer, dstream, exec, tape);
  }
  const Trace::Scope trace("embedding bwd");
  ops::embed_bwd({.ids = pass.ids, .dy = dstream, .dtable = embed_.grad}, exec);
}

int64_t KimiLinear::tape_bytes_per_token(Recompute recompute) const {
  const int64_t row = 4 * config_.hidden;
  int64_t all = 0, largest = 0;
  for (const Block& block : blocks_) {
    const int64_t bytes = 4 * row + block.mixer->tape_bytes_per_token() + block.ffn->tape_bytes_per_token();
    all += bytes, largest = std::max(largest, bytes);
  }
  return recompute == Recompute::none ? all : config_.n_layers() * row + largest;
}

StepReport KimiLinear::after_step(const StepRules& rules) {
  StepReport report;
  for (Block& block : blocks_) block.mixer->after_step(rules, report), block.ffn->after_step(rules, report);
  return report;
}

void KimiLinear::head(Step step, ConstTensor hidden, Tensor logits, const Exec& exec) const {
  const ops::GemmProblem problem[] = {{.x = hidden, .w = head_weight(), .y = logits}};
  apply("head", ops::plan_gemm, {problem, gemm_form(step)}, exec);
}

}  // namespace linnet::model
