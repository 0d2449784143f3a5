#include "model/tensor_table.h"

namespace linnet::model {

int64_t TensorTable::parameters() const {
  int64_t sum = 0;
  for (const TensorRow& row : rows_) {
    int64_t n = 1;
    for (int64_t d : row.shape) n *= d;
    sum += n;
  }
  return sum;
}

F32Parameter::F32Parameter(std::initializer_list<int64_t> dims) {
  int64_t n = 1;
  for (int64_t d : dims) n *= d;
  const size_t bytes = aligned_size(static_cast<size_t>(n) * sizeof(float));
  memory_ = Buffer(2 * bytes);
  view_ = Tensor(memory_.data(), DType::f32, dims);
  grad_ = Tensor(memory_.data() + bytes, DType::f32, dims);
}

}  // namespace linnet::model
