// Mixture-of-experts feed-forward: a router picks K of E experts for each token; a shared expert sees every token.
#pragma once

#include "model/layer_part.h"

namespace linnet::model {

class MoeFfn : public Ffn {
 public:
  MoeFfn(const MoeConfig& moe, int64_t hidden, bool biased_weights);
  void tensors(TensorTable& table, const std::string& prefix) override;
  void forward(ConstTensor x, Tensor y, const Exec& exec) const override;

 private:
  struct Expert {
    ConstTensor gate, up;  // [I, C]
    ConstTensor down;      // [C, I]
  };

  MoeConfig moe_;
  int64_t hidden_;
  bool biased_weights_;
  ConstTensor router_;        // [E, C]
  F32Parameter router_bias_;  // [E]
  std::vector<Expert> experts_;
  Expert shared_;  // I = shared_experts * width; unused when there are none
};

}  // namespace linnet::model
