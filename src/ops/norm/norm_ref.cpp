// Normalisations: the definition, plain loops in double.
#include <cmath>

#include "core/dtype.h"
#include "ops/norm/norm.h"

namespace linnet::ops {

void rms_norm_ref(const RmsNormArgs& a) {
  const int64_t C = a.x[1];
  for (int64_t n = 0; n < a.x[0]; ++n) {
    const float* x = a.x.row<float>(n);
    double sum = 0;
    for (int64_t c = 0; c < C; ++c) sum += static_cast<double>(x[c]) * x[c];
    const double root = std::sqrt(sum / static_cast<double>(C) + a.eps);
    for (int64_t c = 0; c < C; ++c) {
      double value = x[c] / root;
      if (a.round_before_weight) value = to_f32(to_bf16(static_cast<float>(value)));
      a.y.row<float>(n)[c] = static_cast<float>(value * a.weight.as<float>()[c]);
    }
  }
}

void l2_norm_ref(const L2NormArgs& a) {
  const int64_t H = a.x[1], D = a.x[2];
  for (int64_t n = 0; n < a.x[0]; ++n)
    for (int64_t h = 0; h < H; ++h) {
      const float* x = a.x.row<float>(n) + h * D;
      double sum = 0;
      for (int64_t d = 0; d < D; ++d) sum += static_cast<double>(x[d]) * x[d];
      const double root = std::sqrt(sum + a.eps);
      for (int64_t d = 0; d < D; ++d) a.y.row<float>(n)[h * D + d] = static_cast<float>(x[d] / root);
    }
}

void gated_norm_ref(const GatedNormArgs& a) {
  const int64_t H = a.x[1], D = a.x[2];
  for (int64_t n = 0; n < a.x[0]; ++n)
    for (int64_t h = 0; h < H; ++h) {
      const float* x = a.x.row<float>(n) + h * D;
      const float* gate = a.gate.row<float>(n) + h * D;
      double sum = 0;
      for (int64_t d = 0; d < D; ++d) sum += static_cast<double>(x[d]) * x[d];
      const double root = std::sqrt(sum / static_cast<double>(D) + a.eps);
      for (int64_t d = 0; d < D; ++d) {
        const double sigmoid = 1 / (1 + std::exp(-static_cast<double>(gate[d])));
        const double act = a.activation == GateActivation::sigmoid ? sigmoid : gate[d] * sigmoid;
        a.y.row<float>(n)[h * D + d] = static_cast<float>(x[d] / root * a.weight.as<float>()[d] * act);
      }
    }
}

}  // namespace linnet::ops
