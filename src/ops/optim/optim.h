// Optimizer steps: contract. Definitions: optim_ref.cpp. Sources: AdamW, arXiv:1711.05101; Muon as in Moonlight,
// arXiv:2502.16982 section 2.
#pragma once

#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

// g = grad_scale grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
// w -= lr (m / (1 - b1^step) / (sqrt(v / (1 - b2^step)) + eps) + weight_decay w)
struct AdamWArgs {
  Tensor w, m, v;    // any one shape, f32, dense
  ConstTensor grad;  // the same
  float lr, beta1 = 0.9f, beta2 = 0.95f, eps = 1e-8f, weight_decay = 0;
  float grad_scale = 1;
  int64_t step;  // from 1
};
Plan<AdamWArgs> plan_adamw(const AdamWArgs& args, Isa isa = active_isa());
void adamw_ref(const AdamWArgs& args);

// m = momentum m + g;  u = nesterov ? g + momentum m : m;  O = newton_schulz(u / |u|_F);
// w -= lr (0.2 sqrt(max(N, K)) O + weight_decay w), with g = grad_scale grad. A zero u gives O = 0.
// newton_schulz: 5 times X <- a X + b (X X^T) X + c (X X^T)^2 X, (a, b, c) = (3.4445, -4.7750, 2.0315), transposed if N > K.
struct MuonMatrix {
  Tensor w, m;       // [N, K] f32, dense
  ConstTensor grad;  // [N, K] f32, dense
};
struct MuonArgs {
  std::span<const MuonMatrix> matrices;  // updated together: small ones side by side on the threads
  float lr, momentum = 0.95f, weight_decay = 0;
  float grad_scale = 1;
  bool nesterov = true;
  DType compute = DType::bf16;  // of the products of newton_schulz
};
Plan<MuonArgs> plan_muon(const MuonArgs& args, Isa isa = active_isa());
std::span<const Variant<MuonArgs>> muon_variants();
void muon_ref(const MuonArgs& args);

// Sums of squares of f32 numbers in double, one of each tensor (dense, any shape), in an order that does not depend on the thread
// count. NaN and infinities come through.
std::vector<double> sums_of_squares(std::span<const ConstTensor> tensors, const Exec& exec);

}  // namespace linnet::ops
