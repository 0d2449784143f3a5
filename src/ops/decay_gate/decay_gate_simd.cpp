// The decay gate with portable vectors, f32. A token is one row of H * D channels; what belongs to a head is spread over its channels
// once per call, so one head width is as good as another (GDN has 1).
#include "ops/decay_gate/decay_gate_simd.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/decay_gate/decay_gate_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace linnet::ops::decay_gate::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F = hn::ScalableTag<float>;
using Vec = hn::Vec<F>;

// exp(-|x|) for x = z + bias in more than f32: where the gate is almost closed it is proportional to exp(x), so a rounding of x would
// cost |x| ulp. The rounding error of the sum is exact (Knuth's two-sum) and enters as exp(x + low) = exp(x) (1 + low).
HWY_INLINE Vec exp_of_minus_abs(Vec z, Vec bias, Vec x) {
  const F f;
  const Vec from_bias = hn::Sub(x, z);
  const Vec low = hn::Add(hn::Sub(z, hn::Sub(x, from_bias)), hn::Sub(bias, from_bias));
  const Vec sign = hn::And(x, hn::Set(f, -0.0f));
  const Vec e = hn::Exp(f, hn::Neg(hn::Abs(x)));
  // Beyond 110 e is 0, and low may be anything.
  const Vec correction = hn::IfThenElseZero(hn::Lt(hn::Abs(x), hn::Set(f, 110.0f)), hn::Neg(hn::Xor(low, sign)));
  return hn::MulAdd(e, correction, e);
}

// rate softplus(x), softplus(x) = max(x, 0) + log1p(exp(-|x|)); rate < 0.
HWY_INLINE Vec softplus_gate(Vec z, Vec bias, Vec rate) {
  const F f;
  const Vec x = hn::Add(z, bias);
  const Vec softplus = hn::Add(hn::Max(x, hn::Zero(f)), hn::Log1p(f, exp_of_minus_abs(z, bias, x)));
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Mul(rate, softplus));
}

// lower_bound sigmoid(rate x); rate > 0. sigmoid(y) = exp(-|y|) / (1 + exp(-|y|)) below 0, 1 / (1 + exp(-|y|)) above.
HWY_INLINE Vec lower_bound_gate(Vec z, Vec bias, Vec rate, Vec lower_bound) {
  const F f;
  const Vec one = hn::Set(f, 1.0f), y = hn::Mul(rate, hn::Add(z, bias));
  const Vec e = hn::Exp(f, hn::Neg(hn::Abs(y)));
  const Vec sigmoid = hn::Div(hn::IfThenElse(hn::Lt(y, hn::Zero(f)), e, one), hn::Add(one, e));
  return hn::IfThenElse(hn::IsNaN(y), y, hn::Mul(lower_bound, sigmoid));
}

// One token, or a part of it: `width` channels, a multiple of the vector's lanes.
HWY_INLINE void gate_channels(const DecayGateArgs& a, const float* z, const float* rate, const float* bias,
                              int64_t width, float* g) {
  const F f;
  const Vec lower_bound = hn::Set(f, a.lower_bound);
  const bool softplus = a.kind == DecayGateKind::softplus;
  for (int64_t i = 0; i < width; i += static_cast<int64_t>(HWY_LANES(float))) {
    const Vec zi = hn::LoadU(f, z + i), bi = hn::LoadU(f, bias + i), ri = hn::LoadU(f, rate + i);
    hn::StoreU(softplus ? softplus_gate(zi, bi, ri) : lower_bound_gate(zi, bi, ri, lower_bound), f, g + i);
  }
}

// rate and bias are padded to whole vectors; z and log_decay are not, so their ends pass through a vector of their own.
void gate_rows(const DecayGateArgs& a, const float* rate, const float* bias, int64_t begin, int64_t end) {
  constexpr auto kLanes = static_cast<int64_t>(HWY_LANES(float));
  const int64_t width = a.z.row_elements(), whole = width / kLanes * kLanes;
  for (int64_t n = begin; n < end; ++n) {
    const float* z = a.z.row<float>(n);
    float* g = a.log_decay.row<float>(n);
    gate_channels(a, z, rate, bias, whole, g);
    if (whole == width) continue;
    HWY_ALIGN float part[kLanes] = {};
    std::copy(z + whole, z + width, part);
    gate_channels(a, part, rate + whole, bias + whole, kLanes, part);
    std::copy(part, part + (width - whole), g + whole);
  }
}

}  // namespace linnet::ops::decay_gate::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace decay_gate {
HWY_EXPORT(gate_rows);
}

size_t decay_gate_simd_workspace_bytes(const DecayGateArgs& a, int) {
  return 2 *
         aligned_size(static_cast<size_t>(a.z.row_elements()) * sizeof(float));  // whole cache lines, so whole vectors
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
  constexpr int64_t kPieceElements = 8192;  // about 10 us of work
  exec.pool.parallel_for(N, std::max<int64_t>(1, kPieceElements / std::max<int64_t>(width, 1)),
                         [&](int64_t begin, int64_t end, int) {
                           using namespace decay_gate;
                           HWY_DYNAMIC_DISPATCH(gate_rows)(a, rate, bias, begin, end);
                         });
}

}  // namespace linnet::ops
#endif
