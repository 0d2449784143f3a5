// The definition of the decay gate: plain loops in double.
#include <algorithm>
#include <cmath>

#include "ops/decay_gate/decay_gate.h"

namespace linnet::ops {

void decay_gate_ref(const DecayGateArgs& a) {
  const int64_t N = a.z[0], H = a.z[1], D = a.z[2];
  for (int64_t n = 0; n < N; ++n)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t d = 0; d < D; ++d) {
        const double rate = std::exp(double{a.a_log.as<float>()[h]});
        const double bias = a.dt_bias ? a.dt_bias.row<float>(h)[d] : 0;
        const double x = a.z.row<float>(n)[h * D + d] + bias;
        const double softplus = std::isnan(x) ? x : std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
        const double g =
            a.kind == DecayGateKind::softplus ? -rate * softplus : a.lower_bound / (1 + std::exp(-rate * x));
        a.log_decay.row<float>(n)[h * D + d] = static_cast<float>(g);
      }
}

}  // namespace linnet::ops
