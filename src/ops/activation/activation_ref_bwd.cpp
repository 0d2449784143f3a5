// Gradients of the element-wise activations: the definition, plain loops in double.
#include <cmath>

#include "ops/activation/activation_bwd.h"

namespace linnet::ops {

// With s = sigmoid(g):  silu(g) = g s,  silu'(g) = s + g s (1 - s) = s (1 + g sigmoid(-g)).
void swiglu_ref_bwd(const SwigluBwdArgs& a) {
  for (int64_t n = 0; n < a.dy[0]; ++n)
    for (int64_t i = 0; i < a.dy[1]; ++i) {
      const double gate = a.gate.row<float>(n)[i], up = a.up.row<float>(n)[i], dy = a.dy.row<float>(n)[i];
      const double s = 1 / (1 + std::exp(-gate)), t = 1 / (1 + std::exp(gate));
      a.dgate.row<float>(n)[i] = static_cast<float>(dy * up * s * (1 + gate * t));
      a.dup.row<float>(n)[i] = static_cast<float>(dy * gate * s);
    }
}

// y = factor s:  dy/dx = factor s (1 - s) = y (1 - y / factor).
void sigmoid_ref_bwd(const SigmoidBwdArgs& a) {
  for (int64_t n = 0; n < a.dy[0]; ++n)
    for (int64_t i = 0; i < a.dy[1]; ++i) {
      const double y = a.y.row<float>(n)[i], dy = a.dy.row<float>(n)[i];
      a.dx.row<float>(n)[i] = static_cast<float>(dy * y * (1 - y / a.factor));
    }
}

}  // namespace linnet::ops
