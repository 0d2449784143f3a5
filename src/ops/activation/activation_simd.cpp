// Element-wise activations with Highway vectors, row by row.
#include <algorithm>

#include "ops/activation/activation.h"
#include "ops/grain.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/activation/activation_simd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

void swiglu_rows(const SwigluArgs& a, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const auto swiglu = [&](auto gate, auto up) HWY_ATTR { return hn::Mul(silu_f32(d, gate), up); };
  for (int64_t n = begin; n < end; ++n)
    map_f32(a.y[1], a.y.row<float>(n), swiglu, a.gate.row<float>(n), a.up.row<float>(n));
}

void sigmoid_rows(const SigmoidArgs& a, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const auto factor = hn::Set(d, a.factor);
  const auto scaled_sigmoid = [&](auto x) HWY_ATTR { return hn::Mul(factor, sigmoid_f32(d, x)); };
  for (int64_t n = begin; n < end; ++n) map_f32(a.y[1], a.y.row<float>(n), scaled_sigmoid, a.x.row<float>(n));
}

void add_rows(const AddArgs& a, int64_t begin, int64_t end) {
  const auto add = [](auto x, auto y) HWY_ATTR { return hn::Add(x, y); };
  for (int64_t n = begin; n < end; ++n)
    map_f32(a.y[1], a.y.row<float>(n), add, a.x.row<float>(n), static_cast<const float*>(a.y.row<float>(n)));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(swiglu_rows);
HWY_EXPORT(sigmoid_rows);
HWY_EXPORT(add_rows);

constexpr Grain kExponentials{.least = 1024, .most = 16384}, kSums{.least = 8192, .most = 16384};
}  // namespace

void swiglu_simd(const SwigluArgs& a, const Exec& exec) noexcept {
  exec.pool.parallel_for(a.y[0], kExponentials.rows(a.y[0], a.y[1], exec.pool), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(swiglu_rows)(a, begin, end);
  });
}

void sigmoid_simd(const SigmoidArgs& a, const Exec& exec) noexcept {
  exec.pool.parallel_for(a.y[0], kExponentials.rows(a.y[0], a.y[1], exec.pool), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(sigmoid_rows)(a, begin, end);
  });
}

void add_simd(const AddArgs& a, const Exec& exec) noexcept {
  exec.pool.parallel_for(a.y[0], kSums.rows(a.y[0], a.y[1], exec.pool), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(add_rows)(a, begin, end);
  });
}

}  // namespace linnet::ops
#endif
