// Mixture-of-experts feed-forward: a router picks K of E experts for each token; a shared expert sees every token.
#pragma once

#include "model/layer_part.h"

namespace linnet::model {

class MoeFfn : public Ffn {
 public:
  MoeFfn(const MoeConfig& moe, int64_t hidden, bool biased_weights);
  void tensors(TensorTable& table, const std::string& prefix) override;
  void forward(Step step, ConstTensor x, Tensor y, const Exec& exec, Tape* tape) const override;
  void backward(ConstTensor x, ConstTensor dy, Tensor dx, const Exec& exec, Tape& tape) const override;
  int64_t tape_bytes_per_token() const override;
  void after_step(const StepRules& rules, StepReport& report) override;

 private:
  struct Expert {
    MatrixParameter gate, up;  // [I, C]
    MatrixParameter down;      // [C, I]
  };

  struct Glu {  // of an expert's rows; gate and product are one memory without a tape
    Tensor gate, up, product;
  };
  struct Activations {
    Tensor logits;           // [N, E]
    Tensor chosen, weights;  // [N, K] i32, f32
    Tensor start;            // [E + 1] i32: rows of each expert among the sorted pairs
    Tensor token, position;  // [N * K], [N, K] i32: token of a sorted pair, and where a pair went
    Glu routed;              // [N * K, I], sorted by expert
    Glu shared;              // [N, shared I]
    Tensor answers;          // [N * K, C], sorted by expert
  };
  Activations activations(int64_t N, Workspace& memory, bool separate) const;
  int64_t shared_width() const { return moe_.shared_experts * moe_.width; }

  MoeConfig moe_;
  int64_t hidden_;
  bool biased_weights_;
  MatrixParameter router_;    // [E, C]
  F32Parameter router_bias_;  // [E]
  std::vector<Expert> experts_;
  Expert shared_;          // I = shared_experts * width; unused when there are none
  F32Parameter n_tokens_;  // [E] pairs sent to each expert since the last step, counted by backward()
};

}  // namespace linnet::model
