// Gradients of the element-wise activations with Highway vectors, row by row.
#include <algorithm>

#include "ops/activation/activation_bwd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/activation/activation_simd_bwd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

void swiglu_rows_bwd(const SwigluBwdArgs& a, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const auto slopes = [&](auto& dgate, auto& dup, auto gate, auto up, auto dy) HWY_ATTR {
    const auto s = sigmoid_f32(d, gate);
    dgate = hn::Mul(hn::Mul(dy, up), silu_slope_f32(d, gate, s));
    dup = hn::Mul(dy, hn::Mul(gate, s));
  };
  for (int64_t n = begin; n < end; ++n)
    map2_f32(a.dy[1], a.dgate.row<float>(n), a.dup.row<float>(n), slopes, a.gate.row<float>(n), a.up.row<float>(n),
             a.dy.row<float>(n));
}

void sigmoid_rows_bwd(const SigmoidBwdArgs& a, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const auto one = hn::Set(d, 1.0f), inverse = hn::Set(d, 1 / a.factor);
  const auto slope = [&](auto y, auto dy) HWY_ATTR { return hn::Mul(hn::Mul(dy, y), hn::NegMulAdd(y, inverse, one)); };
  for (int64_t n = begin; n < end; ++n)
    map_f32(a.dy[1], a.dx.row<float>(n), slope, a.y.row<float>(n), a.dy.row<float>(n));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(swiglu_rows_bwd);
HWY_EXPORT(sigmoid_rows_bwd);

// Elements below which another thread costs more than it saves.
constexpr int64_t kGrainElements = 16384;
int64_t grain(const ConstTensor& dy) { return std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, dy[1])); }
}  // namespace

void swiglu_simd_bwd(const SwigluBwdArgs& a, const Exec& exec) noexcept {
  exec.pool.parallel_for(a.dy[0], grain(a.dy), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(swiglu_rows_bwd)(a, begin, end);
  });
}

void sigmoid_simd_bwd(const SigmoidBwdArgs& a, const Exec& exec) noexcept {
  exec.pool.parallel_for(a.dy[0], grain(a.dy), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(sigmoid_rows_bwd)(a, begin, end);
  });
}

}  // namespace linnet::ops
#endif
