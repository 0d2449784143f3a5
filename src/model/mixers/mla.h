// Multi-head latent attention layer without positions: queries, the latent cache, attention, output projection.
#pragma once

#include <cmath>

#include "model/layer_part.h"
#include "ops/mla/mla.h"

namespace linnet::model {

class MlaMixer : public Mixer {
 public:
  MlaMixer(const ModelConfig& config, DType cache_dtype);
  void tensors(TensorTable& table, const std::string& prefix) override;
  std::vector<StateSpec> state() const override;
  void forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y, const Exec& exec,
               Tape* tape) const override;
  void backward(const Pass& pass, std::span<const LayerState> initial, ConstTensor x, ConstTensor dy, Tensor dx,
                const Exec& exec, Tape& tape) const override;
  int64_t tape_bytes_per_token() const override;
  void after_step(const StepRules& rules, StepReport& report) override;

 private:
  struct Activations {
    Tensor q;            // [N, H, Dn + Dr]
    Tensor row, normed;  // [N, R + Dr] before and after the latent's norm; one memory without a tape
    Tensor out;          // [N, H, Dv]
  };
  float scale() const { return 1 / std::sqrt(static_cast<float>(mla_.query_dim())); }
  const ops::MlaSequence* cached(const Pass& pass, std::span<const LayerState> states, ConstTensor rows,
                                 Workspace& scratch) const;
  const ops::MlaSequence* on_tape(const Pass& pass, ConstTensor rows, Workspace& scratch) const;

  MlaConfig mla_;
  int64_t hidden_;
  float latent_eps_;
  DType cache_dtype_;
  MatrixParameter q_proj_;    // [H*(Dn + Dr), C]
  MatrixParameter kv_a_;      // [R + Dr, C]   latent, then the key part shared by all heads
  MatrixParameter kv_b_;      // [H*(Dn + Dv), R]
  MatrixParameter o_proj_;    // [C, H*Dv]
  F32Parameter latent_norm_;  // [R]
  F32Parameter max_logit_;    // [H] largest since the last step, seen by backward()
};

}  // namespace linnet::model
