// Inside of the op: what happens to one token's logits.
#pragma once

#include <cstdint>

namespace linnet::ops {

struct LogitsRow {
  float* logits;   // [n]; with wants_gradient overwritten by  factor ((1 + 2 z_loss lse) softmax - onehot)
  int64_t n;       // >= 1
  int32_t target;  // -1: nll is 0
  float factor;    // scale times the token's weight; 0: the gradient is zero, whatever the logits
  float z_loss;
  bool wants_gradient;
};
struct RowLoss {
  float nll, lse;
};
RowLoss softmax_row(const LogitsRow& row) noexcept;  // cross_entropy_simd.cpp

}  // namespace linnet::ops
