// The comparer must reject what comparers elsewhere have let through.
#include <gtest/gtest.h>

#include <cmath>

#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::test {
namespace {

constexpr Tolerance kLoose{.abs = 1e-6, .rel = 1e-3, .row_rel = 1e-3, .why = "test"};

struct Compare : testing::Test {
  OwnedTensor want = OwnedTensor::normal({5, 3, 8}, 1);
  OwnedTensor got = want;
};

TEST_F(Compare, accepts_equal_and_nearly_equal) {
  EXPECT_TRUE(close(got, want, kLoose));
  got.f32()[7] *= 1.0005f;
  EXPECT_TRUE(close(got, want, kLoose));
  EXPECT_FALSE(same_bits(got, want));
}

TEST_F(Compare, rejects_a_sign_flip) {
  got.f32()[60] *= -1;
  EXPECT_FALSE(close(got, want, kLoose));
}

TEST_F(Compare, rejects_two_negative_values_that_differ) {
  want.f32()[3] = -1, got.f32()[3] = -2;
  EXPECT_FALSE(close(got, want, kLoose));
  want.f32()[3] = -2, got.f32()[3] = -1;
  EXPECT_FALSE(close(got, want, kLoose));
}

TEST_F(Compare, rejects_one_bad_row_that_every_element_hides) {
  for (int i = 0; i < 8; ++i) got.f32()[16 + i] *= 1.0009f;
  EXPECT_TRUE(close(got, want, {.abs = 1e-6, .rel = 1e-3, .why = "elements only"}));
  EXPECT_FALSE(close(got, want, {.abs = 1e-6, .rel = 1e-3, .row_rel = 5e-4, .why = "row"}));
}

TEST_F(Compare, rejects_nan_and_infinity_on_one_side) {
  got.f32()[0] = NAN;
  EXPECT_FALSE(close(got, want, kLoose));
  want.f32()[0] = NAN;
  EXPECT_TRUE(close(got, want, kLoose));
  got.f32()[1] = INFINITY, want.f32()[1] = -INFINITY;
  EXPECT_FALSE(close(got, want, kLoose));
}

TEST_F(Compare, names_the_coordinates) {
  got.f32()[1 * 24 + 2 * 8 + 5] += 10;
  const testing::AssertionResult result = close(got, want, kLoose);
  EXPECT_NE(std::string(result.message()).find("[1, 2, 5]"), std::string::npos) << result.message();
}

TEST_F(Compare, rejects_other_shapes_and_absent_views) {
  EXPECT_FALSE(close(got, OwnedTensor::zeros({5, 24}), kLoose));
  EXPECT_FALSE(close(ConstTensor(), ConstTensor(), kLoose));
}

}  // namespace
}  // namespace linnet::test
