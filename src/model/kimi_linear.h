// A Kimi Linear model: its parts, its parameters, and the forward pass. The pass itself is on one page in kimi_linear.cpp.
#pragma once

#include <memory>
#include <vector>

#include "core/function_ref.h"
#include "model/layer_part.h"

namespace linnet::model {

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

  // logits [L, V] f32 = head(hidden [L, C] f32), hidden being rows of pass.output.
  void head(ConstTensor hidden, Tensor logits, const Exec& exec) const;

 private:
  struct Block {
    F32Parameter mixer_norm, ffn_norm;  // [C]
    std::unique_ptr<Mixer> mixer;
    std::unique_ptr<Ffn> ffn;
  };

  ModelConfig config_;
  TensorTable table_;
  std::vector<std::vector<StateSpec>> state_specs_;
  ConstTensor embed_;  // [V, C]
  std::vector<Block> blocks_;
  F32Parameter final_norm_;  // [C]
  ConstTensor head_;         // [V, C]; the embedding when tied
};

}  // namespace linnet::model
