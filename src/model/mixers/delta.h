// The delta-rule layers: projections, short convolution, gates, the recurrent core, gated norm, output projection.
//   KDA  one decay per channel, from a projection of low rank
//   GDN  one decay per head; all else equal, as in the comparison of the Kimi Linear report (arXiv:2510.26692, section 5).
//        The layer of the Gated DeltaNet paper (arXiv:2412.06464) differs in its output gate: SiLU, full rank.
#pragma once

#include <cmath>

#include "model/layer_part.h"
#include "ops/linear_attn/linear_attn.h"

namespace linnet::model {

class DeltaMixer : public Mixer {
 public:
  DeltaMixer(const ModelConfig& config, ops::Decay decay);  // per_channel: KDA, per_token: GDN
  void tensors(TensorTable& table, const std::string& prefix) override;
  std::vector<StateSpec> state() const override;
  void prepare() override;
  void forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y, const Exec& exec,
               Tape* tape) const override;
  void backward(const Pass& pass, std::span<const LayerState> initial, ConstTensor x, ConstTensor dy, Tensor dx,
                const Exec& exec, Tape& tape) const override;
  int64_t tape_bytes_per_token() const override;

 private:
  enum StateIndex { kConv, kRecurrent };
  struct Activations {
    Tensor projected;     // [N, 3 H D] q, k, v before the convolution
    Tensor f, g;          // [N, D]     the two gates, low rank; GDN has no f
    Tensor beta;          // [N, H]     write strength
    Tensor z, log_decay;  // [N, H, G]  decay gate before and after its activation; one memory without a tape
    Tensor gate;          // [N, H, D]  output gate
    Tensor conv;          // [N, 3 H D] after the convolution
    Tensor qk;            // [N, 2 H, D] of unit length; the memory of conv's part without a tape
    Tensor out, normed;   // [N, H, D]  of the recurrence; one memory without a tape
  };
  float scale() const { return 1 / std::sqrt(static_cast<float>(kda_.head_dim)); }
  Activations activations(int64_t N, Workspace& memory, bool separate) const;
  int64_t decays() const { return decay_ == ops::Decay::per_channel ? kda_.head_dim : 1; }  // G, of a head

  KdaConfig kda_;
  ops::Decay decay_;
  int64_t hidden_;
  float norm_eps_;
  bool round_decay_;
  MatrixParameter q_proj_, k_proj_, v_proj_;  // [H*D, C]
  MatrixParameter f_a_, f_b_;                 // [D, C], [H*D, D] decay gate of KDA
  MatrixParameter a_proj_;                    // [H, C]      decay gate of GDN
  MatrixParameter g_a_, g_b_;                 // [D, C], [H*D, D] output gate
  MatrixParameter b_proj_;                    // [H, C]      write strength
  MatrixParameter o_proj_;                    // [C, H*D]
  F32Parameter conv_;                         // [3*H*D, W]  q, k, v taps one after the other
  F32Parameter a_log_;                        // [H]
  F32Parameter dt_bias_;                      // [H*G]
  F32Parameter o_norm_;                       // [D]
};

}  // namespace linnet::model
