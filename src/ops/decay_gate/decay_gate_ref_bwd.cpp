// The definition of the decay gate's gradient: plain loops in double. Derivatives of the formulas in decay_gate_ref.cpp by
// x = z + dt_bias and by A_log (a = exp(A_log) is its own derivative).
#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/decay_gate/decay_gate_bwd.h"

namespace linnet::ops {

void decay_gate_ref_bwd(const DecayGateBwdArgs& a) {
  const int64_t N = a.z[0], H = a.z[1], D = a.z[2];
  std::vector<double> da_log(static_cast<size_t>(H)), ddt_bias(static_cast<size_t>(H * D));
  for (int64_t n = 0; n < N; ++n)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t d = 0; d < D; ++d) {
        const double rate = std::exp(double{a.a_log.as<float>()[h]});
        const double x = a.z.row<float>(n)[h * D + d] + (a.dt_bias ? a.dt_bias.row<float>(h)[d] : 0.0);
        const double dg = a.dlog_decay.row<float>(n)[h * D + d];
        double dz = 0;
        if (a.kind == DecayGateKind::softplus) {
          const double softplus = std::isnan(x) ? x : std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
          dz = -rate * dg / (1 + std::exp(-x));
          if (dg != 0) da_log[h] += dg * -rate * softplus;
        } else {
          const double e = std::exp(-std::abs(rate * x)), slope = e / ((1 + e) * (1 + e));
          if (slope != 0) dz = a.lower_bound * slope * rate * dg;
          if (dz != 0) da_log[h] += dz * x;
        }
        ddt_bias[h * D + d] += dz;
        a.dz.row<float>(n)[h * D + d] = static_cast<float>(dz);
      }
  for (int64_t h = 0; h < H; ++h) {
    a.da_log.as<float>()[h] += static_cast<float>(da_log[h]);
    for (int64_t d = 0; d < D && a.ddt_bias; ++d)
      a.ddt_bias.row<float>(h)[d] += static_cast<float>(ddt_bias[h * D + d]);
  }
}

}  // namespace linnet::ops
