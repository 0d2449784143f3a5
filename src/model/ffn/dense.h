// Dense SwiGLU feed-forward: y = W_down (silu(W_gate x) * W_up x).
#pragma once

#include "model/layer_part.h"

namespace linnet::model {

class DenseFfn : public Ffn {
 public:
  explicit DenseFfn(const ModelConfig& config) : hidden_(config.hidden), width_(config.dense_width) {}
  void tensors(TensorTable& table, const std::string& prefix) override;
  void forward(ConstTensor x, Tensor y, const Exec& exec) const override;

 private:
  int64_t hidden_, width_;
  ConstTensor gate_, up_;  // [I, C]
  ConstTensor down_;       // [C, I]
};

}  // namespace linnet::model
