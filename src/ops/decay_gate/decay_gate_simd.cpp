// The decay gate with portable vectors, f32. A token is one row of H * D channels; what belongs to a head is spread
// over its channels once per call, so one head width is as good as another (GDN has 1).
#include "ops/decay_gate/decay_gate_simd.h"

#include <algorithm>
#include <cmath>

#include "ops/grain.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/decay_gate/decay_gate_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/decay_gate/decay_gate_simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// bound sigmoid(rate x); rate > 0. sigmoid(y) = exp(-|y|) / (1 + exp(-|y|)) below 0, 1 / (1 + exp(-|y|)) above.
HWY_INLINE Vec lower_bound_gate(Vec z, Vec bias, Vec rate, Vec bound) {
  const F f;
  const Vec one = hn::Set(f, 1.0f), y = hn::Mul(rate, hn::Add(z, bias)), e = exp_of_minus_abs(y);
  const Vec sigmoid = hn::Div(hn::IfThenElse(hn::Lt(y, hn::Zero(f)), e, one), hn::Add(one, e));
  return hn::IfThenElse(hn::IsNaN(y), y, hn::Mul(bound, sigmoid));
}

void gate_rows(const DecayGateArgs& a, const float* rate, const float* bias, int64_t begin, int64_t end) {
  const int64_t width = a.z.row_elements();
  for (int64_t n = begin; n < end; ++n) {
    const float* z = a.z.row<float>(n);
    float* g = a.log_decay.row<float>(n);
    if (a.kind == DecayGateKind::softplus) {
      map_f32(
          width, g, [](Vec zi, Vec bi, Vec ri) HWY_ATTR { return softplus_gate(zi, bi, ri); }, z, bias, rate);
    } else {
      const Vec bound = hn::Set(F(), a.lower_bound);
      map_f32(
          width, g, [=](Vec zi, Vec bi, Vec ri) HWY_ATTR { return lower_bound_gate(zi, bi, ri, bound); }, z, bias,
          rate);
    }
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(gate_rows);
}  // namespace

size_t decay_gate_simd_workspace_bytes(const DecayGateArgs& a, int) {
  return 2 * aligned_size(static_cast<size_t>(a.z.row_elements()) * sizeof(float));
}

void decay_gate_simd(const DecayGateArgs& a, const Exec& exec) noexcept {
  const int64_t N = a.z[0], H = a.z[1], D = a.z[2], width = H * D;
  Workspace::Scope scope(exec.workspace);
  float* rate = exec.workspace.take<float>(width);
  float* bias = exec.workspace.take<float>(width);
  for (int64_t h = 0; h < H; ++h) {
    const double per_head = std::exp(double{a.a_log.as<float>()[h]});
    std::fill_n(rate + h * D, D, static_cast<float>(a.kind == DecayGateKind::softplus ? -per_head : per_head));
    if (a.dt_bias) std::copy_n(a.dt_bias.row<float>(h), D, bias + h * D);
    else std::fill_n(bias + h * D, D, 0.0f);
  }
  constexpr Grain kGrain{.least = 1024, .most = 8192};  // 0.8 and 6 us of work with AVX-512
  exec.pool.parallel_for(N, kGrain.rows(N, width, exec.pool), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(gate_rows)(a, rate, bias, begin, end);
  });
}

}  // namespace linnet::ops
#endif
