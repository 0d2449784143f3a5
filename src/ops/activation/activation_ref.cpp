// Element-wise activations: the definition, plain loops in double.
#include <cmath>

#include "ops/activation/activation.h"

namespace linnet::ops {

void swiglu_ref(const SwigluArgs& a) {
  for (int64_t n = 0; n < a.y[0]; ++n)
    for (int64_t i = 0; i < a.y[1]; ++i) {
      const double gate = a.gate.row<float>(n)[i];
      a.y.row<float>(n)[i] = static_cast<float>(gate / (1 + std::exp(-gate)) * a.up.row<float>(n)[i]);
    }
}

void sigmoid_ref(const SigmoidArgs& a) {
  for (int64_t n = 0; n < a.y[0]; ++n)
    for (int64_t i = 0; i < a.y[1]; ++i) {
      const double x = a.x.row<float>(n)[i];
      a.y.row<float>(n)[i] = static_cast<float>(a.factor / (1 + std::exp(-x)));
    }
}

void add_ref(const AddArgs& a) {
  for (int64_t n = 0; n < a.y[0]; ++n)
    for (int64_t i = 0; i < a.y[1]; ++i) {
      const double sum = static_cast<double>(a.y.row<float>(n)[i]) + a.x.row<float>(n)[i];
      a.y.row<float>(n)[i] = static_cast<float>(sum);
    }
}

}  // namespace linnet::ops
