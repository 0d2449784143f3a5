// The tensor table: one row for each parameter of a model. Loader, initialiser, checkpoint writer and (when training) optimizer
// all walk it; adding a parameter is adding a row, in the tensors() of the part that owns it.
#pragma once

#include <string>
#include <vector>

#include "core/arena.h"
#include "core/tensor.h"

namespace linnet::model {

// How a fresh parameter is drawn. Sources: kimi-linear remote code (initializer_range), fla layers/kda.py @ bc3b101.
enum class Init : uint8_t {
  normal,   // N(0, initializer_range^2)
  ones,     // norms
  zeros,    // router bias
  conv,     // U(-1/sqrt(W), 1/sqrt(W))
  a_log,    // log U(1, 16)
  dt_bias,  // inverse softplus of exp(U(log 1e-3, log 1e-1)), at least 1e-4
};

// A matrix of the model. Inference sets w alone; a trainer sets the rest and keeps the memory.
struct MatrixParameter {
  ConstTensor w;    // [out, in] f32, bf16 or f16: what products read
  ConstTensor w_t;  // [in, out] of the same type: its transpose, for gradients
  Tensor grad;      // [out, in] f32, added to by every backward pass
  Tensor master;    // [out, in] f32: what the optimizer moves; w is made from it after each step

  operator const ConstTensor&() const { return w; }
  DType compute() const { return w.dtype == DType::f32 ? DType::f32 : DType::bf16; }  // of gradient products
};

// Which optimizer updates it (docs/numerics.md): muon = a matrix inside a layer; adamw = embedding, head, vectors;
// adamw_no_decay = without weight decay.
enum class OptimizerGroup : uint8_t { muon, adamw, adamw_no_decay, frozen };

struct TensorRow {
  std::string name;            // in a published checkpoint
  std::vector<int64_t> shape;  // as published; a file may add or drop extents of 1
  Init init = Init::normal;
  OptimizerGroup group = OptimizerGroup::muon;
  int shard_axis = -1;     // axis that tensor parallelism splits; -1: replicated
  std::string other_name;  // a second name that files in circulation use; empty: none

  // Exactly one of the two is set. A matrix stays where it is, in the dtype of its file (f32, bf16, f16); a small vector that is
  // always computed with in f32 is widened into memory that its owner gives.
  MatrixParameter* matrix = nullptr;
  Tensor f32, f32_grad;
};

// Memory of a small parameter that is computed with in f32, and of its gradient (address space until training touches it).
class F32Parameter {
 public:
  F32Parameter() = default;
  explicit F32Parameter(std::initializer_list<int64_t> dims);
  operator Tensor() const { return view_; }
  operator ConstTensor() const { return view_; }
  const Tensor& view() const { return view_; }
  const Tensor& grad() const { return grad_; }

 private:
  Buffer memory_;
  Tensor view_, grad_;
};

class TensorTable {
 public:
  TensorRow& add_matrix(std::string name, std::vector<int64_t> shape, MatrixParameter& slot) {
    TensorRow row{.name = std::move(name), .shape = std::move(shape)};
    row.matrix = &slot;
    return rows_.emplace_back(std::move(row));
  }
  TensorRow& add_f32(std::string name, std::vector<int64_t> shape, Tensor memory, Tensor grad, Init init) {
    TensorRow row{.name = std::move(name), .shape = std::move(shape), .init = init};
    row.group = init == Init::a_log || init == Init::dt_bias ? OptimizerGroup::adamw_no_decay : OptimizerGroup::adamw;
    row.f32 = memory, row.f32_grad = grad;
    return rows_.emplace_back(std::move(row));
  }
  TensorRow& add_f32(std::string name, std::vector<int64_t> shape, const F32Parameter& parameter, Init init) {
    return add_f32(std::move(name), std::move(shape), parameter.view(), parameter.grad(), init);
  }
  const std::vector<TensorRow>& rows() const { return rows_; }
  int64_t parameters() const;

 private:
  std::vector<TensorRow> rows_;
};

}  // namespace linnet::model
