// A Kimi Linear model: its parts, its parameters, and the forward pass. The pass itself is on one page in kimi_linear.cpp.
#pragma once

#include <memory>
#include <vector>

#include "core/function_ref.h"
#include "model/layer_part.h"

namespace linnet::model {

// What a training pass asks of the head: see ops/cross_entropy/cross_entropy.h.
struct Loss {
  ConstTensor target;  // [N] i32, -1: not scored
  ConstTensor weight;  // [N] f32, or absent = 1
  Tensor nll;          // [N] f32: out
  float scale = 1;     // of the gradients
  float z_loss = 0;
  bool forward_only = false;  // evaluation: no gradients, no tape
};

class KimiLinear {
 public:
  // Makes the parts and the table of a model without parameters in it; load_parameters (load.h) or an initialiser fills it.
  // cache_dtype: bf16 or f32, of the latent cache.
  KimiLinear(ModelConfig config, DType cache_dtype);

  const ModelConfig& config() const { return config_; }
  const TensorTable& table() const { return table_; }
  // State of each layer; the runtime allocates by these.
  const std::vector<std::vector<StateSpec>>& state_specs() const { return state_specs_; }

  // Called once after the parameters are in place.
  void prepare();

  // Runs the packed tokens of `pass` through the model, advances the states and fills pass.output. Throws InvalidArgument for a
  // token id outside the vocabulary, before any state has changed. `observe`, if given, sees the stream [N, C] after the embedding
  // (layer 0) and after each layer (1 .. n - 1), and pass.output (layer n).
  using Observer = FunctionRef<void(int64_t layer, const ConstTensor& stream)>;
  void forward(const Pass& pass, const Exec& exec, const Observer* observe = nullptr) const;

  // Training: the forward pass over whole sequences (see Pass::initial; output and output_rows are not used), the loss of every
  // token, and, unless loss.forward_only, the backward pass, which adds to the gradients of all parameters. `memory` holds what
  // the backward needs of the forward. Throws as forward() does; Unsupported when a mixer has no backward pass.
  void train(const Pass& pass, const Loss& loss, Recompute recompute, Workspace& memory, const Exec& exec) const;
  int64_t tape_bytes_per_token(Recompute recompute) const;  // of `memory`, for each token of a pass
  // After an optimizer step on the masters.
  StepReport after_step(const StepRules& rules);

  // logits [L, V] f32 = head(hidden [L, C] f32), hidden being rows of pass.output. `step`: of that pass.
  void head(Step step, ConstTensor hidden, Tensor logits, const Exec& exec) const;

 private:
  struct Block {
    F32Parameter mixer_norm, ffn_norm;  // [C]
    std::unique_ptr<Mixer> mixer;
    std::unique_ptr<Ffn> ffn;
  };
  struct BlockActivations {
    Tensor x, x_normed;  // [N, C] the stream before the mixer, and what the mixer read
    Tensor h, h_normed;  // the same of the feed-forward part
  };
  const MatrixParameter& head_weight() const { return config_.tie_embeddings ? embed_ : head_; }
  void embed(ConstTensor ids, Tensor stream, const Exec& exec) const;
  void norm(ConstTensor x, const F32Parameter& weight, Tensor y, const Exec& exec) const;
  void block_forward(const Pass& pass, int64_t layer, Tensor stream, const Exec& exec, Tape* tape) const;
  void block_backward(const Pass& pass, int64_t layer, Tensor dstream, const Exec& exec, Tape& tape) const;
  void start_states(const Pass& pass, int64_t layer, const Exec& exec) const;

  ModelConfig config_;
  TensorTable table_;
  std::vector<std::vector<StateSpec>> state_specs_;
  MatrixParameter embed_;  // [V, C]
  std::vector<Block> blocks_;
  F32Parameter final_norm_;  // [C]
  MatrixParameter head_;     // [V, C]; unused when tied
};

}  // namespace linnet::model
