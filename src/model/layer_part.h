// What a block is made of: mixers (attention of some kind, with state) and feed-forward parts (without).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/exec.h"
#include "model/config.h"
#include "model/pass.h"
#include "model/tape.h"
#include "model/tensor_table.h"

namespace linnet::model {

// What acts on parameters besides their gradients, once after each optimizer step, on the masters.
struct StepRules {
  float qk_clip_tau = 0;  // 0: off. Largest attention logit allowed (QK-clip, Kimi K2 report)
  float router_bias_rate =
      0;  // 0: off. Step of the correction bias towards balance (DeepSeek-V3, arXiv:2412.19437, 2.1.2)
};

// What the parts saw since the last step: worst of the model.
struct StepReport {
  float max_logit = 0;     // of attention
  float max_overload = 0;  // tokens of the busiest expert over the mean, minus 1
};

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
  // With a tape (a training pass) it pushes one record for backward().
  virtual void forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y, const Exec& exec,
                       Tape* tape) const = 0;

  // Pops the record; dx [N, C] = gradient of x given dy [N, C] (dx may not alias dy), and adds to the parameters' gradients.
  // `initial` are the states that the sequences started from, or empty for zeros; they get no gradient. A mixer for inference
  // alone need not have one: the default throws Unsupported.
  virtual void backward(const Pass& pass, std::span<const LayerState> initial, ConstTensor x, ConstTensor dy, Tensor dx,
                        const Exec& exec, Tape& tape) const;
  virtual int64_t tape_bytes_per_token() const { return 0; }  // memory that the record's tensors take
  virtual void after_step(const StepRules&, StepReport&) {}
};

class Ffn {
 public:
  virtual ~Ffn() = default;
  virtual void tensors(TensorTable& table, const std::string& prefix) = 0;
  virtual void forward(Step step, ConstTensor x, Tensor y, const Exec& exec,
                       Tape* tape) const = 0;  // x, y [N, C] f32, not aliased
  virtual void backward(ConstTensor x, ConstTensor dy, Tensor dx, const Exec& exec, Tape& tape) const = 0;
  virtual int64_t tape_bytes_per_token() const = 0;
  virtual void after_step(const StepRules&, StepReport&) {}
};

// The one list of mixers: name in ModelConfig::mixers -> maker. Adding a mixer adds a line to registry.cpp (or, in a test or an
// extension, a call of register_mixer before the model is made). Throws InvalidArgument for an unknown name, listing the known ones.
using MixerMaker = std::unique_ptr<Mixer> (*)(const ModelConfig& config, DType cache_dtype);
std::unique_ptr<Mixer> make_mixer(const std::string& name, const ModelConfig& config, DType cache_dtype);
void register_mixer(const std::string& name, MixerMaker maker);

std::unique_ptr<Ffn> make_ffn(FfnKind kind, const ModelConfig& config);

}  // namespace linnet::model
