#include "runtime/exponentials.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/rng.h"

namespace linnet::runtime {
namespace {

TEST(exponentials, within_two_units_in_the_last_place) {
  std::vector<float> x, out;
  for (int i = 0; i <= 900000; ++i) x.push_back(-1e-4f * static_cast<float>(i));
  x.insert(x.end(), {-1e-30f, -86.99f, -87.f, -87.01f, -1e30f, -INFINITY, 0.f});
  out.resize(x.size());
  exp_below(x, 0, 1, out);
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = std::exp(static_cast<double>(x[i]));
    if (x[i] <= -87) EXPECT_EQ(out[i], 0) << x[i];
    else ASSERT_NEAR(out[i], want, 2 * 0x1p-24 * want) << x[i];
  }
  EXPECT_EQ(out.back(), 1);

  exp_below(std::vector<float>{3, 1}, 3, 0.5f, std::span(out).first(2));
  EXPECT_EQ(out[0], 1);
  EXPECT_NEAR(out[1], std::exp(-4.0), 1e-8);
}

TEST(exponentials, largest_and_sum_of_any_size) {
  const Rng rng(1);
  for (size_t n : {0, 1, 15, 16, 17, 33, 100}) {
    std::vector<float> x(n);
    double sum = 0, largest = -INFINITY;
    for (size_t i = 0; i < n; ++i) {
      x[i] = static_cast<float>(rng.normal(i));
      sum += static_cast<double>(x[i]), largest = std::max(largest, static_cast<double>(x[i]));
    }
    EXPECT_EQ(largest_of(x), largest);
    EXPECT_NEAR(sum_of(x), sum, 1e-12);
    for (size_t i = 0; i < n; ++i) {
      const float was = std::exchange(x[i], NAN);
      EXPECT_TRUE(std::isnan(largest_of(x))) << i << " of " << n;
      x[i] = was;
    }
  }
}

}  // namespace
}  // namespace linnet::runtime
