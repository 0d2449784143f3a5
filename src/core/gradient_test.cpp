// The gradient check itself: it accepts a right gradient and rejects a sign, a factor, one bad element and a NaN.
#include "support/gradient.h"

#include <cmath>
#include <limits>

#include "support/owned_tensor.h"

namespace linnet::test {
namespace {

// loss = sum_i sin(x_i) y_i over inputs x and y of 200 elements.
struct SineCase {
  OwnedTensor x = OwnedTensor::normal({200}, 1), y = OwnedTensor::normal({200}, 2), dx, dy;
  SineCase()
      : dx(OwnedTensor::filled({200}, [&](int64_t i) { return std::cos(double{x.f32()[i]}) * y.f32()[i]; })),
        dy(OwnedTensor::filled({200}, [&](int64_t i) { return std::sin(double{x.f32()[i]}); })) {}

  testing::AssertionResult check() const {
    return gradient_close({{"x", x, dx}, {"y", y, dy}}, [](const Point& p) {
      double loss = 0;
      for (size_t i = 0; i < p[0].size(); ++i) loss += std::sin(p[0][i]) * p[1][i];
      return loss;
    });
  }
};

TEST(Gradient, AcceptsTheRightOne) { EXPECT_TRUE(SineCase().check()); }

TEST(Gradient, RejectsWrongOnes) {
  SineCase sign, factor, element, nan, small;
  for (int i = 0; i < 200; ++i) sign.dx.f32()[i] *= -1, factor.dy.f32()[i] *= 1.0001f;
  element.dx.f32()[77] += 0.001f;
  nan.dy.f32()[199] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(sign.check());
  EXPECT_FALSE(factor.check());
  EXPECT_FALSE(element.check());
  EXPECT_FALSE(nan.check());
  small.dx = OwnedTensor::zeros({100});
  EXPECT_FALSE(small.check());
}

}  // namespace
}  // namespace linnet::test
