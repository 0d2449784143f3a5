// Multi-head latent attention layer without positions: queries, the latent cache, attention, output projection.
#pragma once

#include "model/layer_part.h"

namespace linnet::model {

class MlaMixer : public Mixer {
 public:
  MlaMixer(const ModelConfig& config, DType cache_dtype);
  void tensors(TensorTable& table, const std::string& prefix) override;
  std::vector<StateSpec> state() const override;
  void forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y,
               const Exec& exec) const override;

 private:
  void write_cache(const Pass& pass, std::span<const LayerState> states, ConstTensor rows) const;

  MlaConfig mla_;
  int64_t hidden_;
  float latent_eps_;
  DType cache_dtype_;
  ConstTensor q_proj_;        // [H*(Dn + Dr), C]
  ConstTensor kv_a_;          // [R + Dr, C]   latent, then the key part shared by all heads
  ConstTensor kv_b_;          // [H*(Dn + Dv), R]
  ConstTensor o_proj_;        // [C, H*Dv]
  F32Parameter latent_norm_;  // [R]
};

}  // namespace linnet::model
