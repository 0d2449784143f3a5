// Kimi Delta Attention layer: projections, short convolution, gates, the recurrent core, gated norm, output projection.
#pragma once

#include "model/layer_part.h"

namespace linnet::model {

class KdaMixer : public Mixer {
 public:
  explicit KdaMixer(const ModelConfig& config);
  void tensors(TensorTable& table, const std::string& prefix) override;
  std::vector<StateSpec> state() const override;
  void prepare() override;
  void forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y,
               const Exec& exec) const override;

 private:
  enum StateIndex { kConv, kRecurrent };

  KdaConfig kda_;
  int64_t hidden_;
  float norm_eps_;
  bool round_decay_;
  ConstTensor q_proj_, k_proj_, v_proj_;  // [H*D, C]
  ConstTensor f_a_, g_a_;                 // [D, C]      down: decay gate, output gate
  ConstTensor f_b_, g_b_;                 // [H*D, D]    up
  ConstTensor b_proj_;                    // [H, C]      write strength
  ConstTensor o_proj_;                    // [C, H*D]
  F32Parameter conv_;                     // [3*H*D, W]  q, k, v taps one after the other
  F32Parameter a_log_;                    // [H]
  F32Parameter dt_bias_;                  // [H*D]
  F32Parameter o_norm_;                   // [D]
};

}  // namespace linnet::model
