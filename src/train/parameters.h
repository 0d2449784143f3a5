// Parameters: the memory behind a model that is trained. Masters, gradients and optimizer state are f32; what products read is
// made from the masters after each step, in the type of the run's precision.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/exec.h"
#include "formats/checkpoint.h"
#include "model/kimi_linear.h"

namespace linnet::train {

// One trained tensor: a row of the model's table with its memory. Vectors have no separate master: the model computes with it.
struct Parameter {
  const model::TensorRow* row;
  Tensor master, grad;  // [out, in] f32; a vector is [n, 1]
  Tensor first;         // momentum of Muon, first moment of AdamW; absent when frozen
  Tensor second;        // second moment of AdamW; absent otherwise
};

class Parameters {
 public:
  // Gives every matrix of the model its memory and points the table's slots to it. The model must outlive this and must not move.
  // precision: bf16 or f32, of the products. Vectors stay f32, and are rounded to bf16 by nobody.
  Parameters(model::KimiLinear& model, DType precision);
  Parameters(const Parameters&) = delete;
  Parameters& operator=(const Parameters&) = delete;

  // Bytes that a model of this table will take, by purpose, without allocating any.
  struct Bytes {
    int64_t masters = 0, gradients = 0, optimizer = 0, copies = 0;
    int64_t total() const { return masters + gradients + optimizer + copies; }
  };
  static Bytes bytes_of(const model::TensorTable& table, DType precision);

  void initialize(float stddev, uint64_t seed);  // fresh values, each as its row says
  // From a checkpoint with the published names, of any float type. Throws FormatError naming file and tensor.
  void load(const formats::Checkpoint& checkpoint);

  void zero_gradients(const Exec& exec);
  void refresh(const Exec& exec);  // the products' copies and their transposes, from the masters

  const std::vector<Parameter>& all() const { return all_; }

 private:
  Buffer memory_;
  std::vector<Parameter> all_;
};

}  // namespace linnet::train
