// exp_f32 of activation-inl.h against std::exp in double, at the instruction set in force.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/activation/exp_simd_test.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

void exp_of(const float* x, int64_t n, float* y) {
  map_f32(
      n, y, [](auto v) HWY_ATTR { return exp_f32(hn::ScalableTag<float>(), v); }, x);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "support/owned_tensor.h"

#include <gtest/gtest.h>

namespace linnet::ops {
namespace {
HWY_EXPORT(exp_of);

std::vector<float> exp_of_all(const std::vector<float>& x) {
  std::vector<float> y(x.size());
  HWY_DYNAMIC_DISPATCH(exp_of)(x.data(), static_cast<int64_t>(x.size()), y.data());
  return y;
}

TEST(Exp, RelativeErrorBelow2e7) {
  std::vector<float> x;
  for (int i = 0; i <= 1000000; ++i) x.push_back(static_cast<float>(-86.59 + (88.72 + 86.59) * i / 1e6));
  const std::vector<float> y = exp_of_all(x);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(static_cast<double>(x[i]));
    worst = std::max(worst, std::abs(y[i] - want) / want);
  }
  EXPECT_LT(worst, 2e-7);
  EXPECT_GT(worst, 2e-8) << "f32 cannot be this good: nothing was compared";
}

TEST(Exp, OutsideTheRange) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kMax = std::numeric_limits<float>::max();
  const std::vector<float> y = exp_of_all({0, -0.0f, 88.73f, 89, 200, kMax, kInf, -86.61f, -200, -kMax, -kInf, 1e-40f});
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[1], 1);
  for (int i = 2; i <= 6; ++i) EXPECT_EQ(y[static_cast<size_t>(i)], kInf) << i;
  for (int i = 7; i <= 10; ++i) EXPECT_EQ(y[static_cast<size_t>(i)], 0) << i;
  EXPECT_EQ(y[11], 1);
  EXPECT_TRUE(std::isnan(exp_of_all({std::numeric_limits<float>::quiet_NaN()})[0]));
}

}  // namespace
}  // namespace linnet::ops
#endif
