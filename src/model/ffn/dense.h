// Dense SwiGLU feed-forward: y = W_down (silu(W_gate x) * W_up x).
#pragma once

#include "model/layer_part.h"

namespace linnet::model {

class DenseFfn : public Ffn {
 public:
  explicit DenseFfn(const ModelConfig& config) : hidden_(config.hidden), width_(config.dense_width) {}
  void tensors(TensorTable& table, const std::string& prefix) override;
  void forward(Step step, ConstTensor x, Tensor y, const Exec& exec, Tape* tape) const override;
  void backward(ConstTensor x, ConstTensor dy, Tensor dx, const Exec& exec, Tape& tape) const override;
  int64_t tape_bytes_per_token() const override { return 4 * 3 * width_; }

 private:
  struct Activations {
    Tensor gate, up, product;  // [N, I]; gate and product are one memory without a tape
  };
  int64_t hidden_, width_;
  MatrixParameter gate_, up_;  // [I, C]
  MatrixParameter down_;       // [C, I]
};

}  // namespace linnet::model
