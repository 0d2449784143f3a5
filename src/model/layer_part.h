// What a block is made of: mixers (attention of some kind, with state) and feed-forward parts (without).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/exec.h"
#include "model/config.h"
#include "model/pass.h"
#include "model/tensor_table.h"

namespace linnet::model {

// A token mixer. One object a layer; it owns its parameters and holds no state of any sequence.
class Mixer {
 public:
  virtual ~Mixer() = default;
  // Its rows for the table; `prefix` ends with a dot ("model.layers.3.self_attn.").
  virtual void tensors(TensorTable& table, const std::string& prefix) = 0;
  // The state it keeps per sequence, at most kMaxStateTensors tensors. A fresh state is all zero bytes.
  virtual std::vector<StateSpec> state() const = 0;
  // Called once after the parameters are in place: checks and derives what the forward pass wants.
  virtual void prepare() {}
  // y = mixer(x) for the packed tokens of the pass, advancing `states` [B]. x [N, C] f32 is normed; y [N, C] f32 must not alias it.
  virtual void forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y,
                       const Exec& exec) const = 0;
};

class Ffn {
 public:
  virtual ~Ffn() = default;
  virtual void tensors(TensorTable& table, const std::string& prefix) = 0;
  virtual void forward(ConstTensor x, Tensor y, const Exec& exec) const = 0;  // x, y [N, C] f32, not aliased
};

// The one list of mixers: name in ModelConfig::mixers -> maker. Adding a mixer adds a line to registry.cpp (or, in a test or an
// extension, a call of register_mixer before the model is made). Throws InvalidArgument for an unknown name, listing the known ones.
using MixerMaker = std::unique_ptr<Mixer> (*)(const ModelConfig& config, DType cache_dtype);
std::unique_ptr<Mixer> make_mixer(const std::string& name, const ModelConfig& config, DType cache_dtype);
void register_mixer(const std::string& name, MixerMaker maker);

std::unique_ptr<Ffn> make_ffn(FfnKind kind, const ModelConfig& config);

}  // namespace linnet::model
