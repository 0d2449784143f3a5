// Drawn values: their distributions, and that a value depends on seed, name and index alone.
#include "model/initialize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace linnet::model {
namespace {

std::vector<float> drawn(Init init, int64_t n, uint64_t seed = 1, const std::string& name = "w", float stddev = 1) {
  const TensorRow row{.name = name, .shape = {n / 4, 4}, .init = init};
  std::vector<float> values(static_cast<size_t>(n));
  draw_values(row, stddev, seed, 0, values);
  return values;
}

struct Moments {
  double mean = 0, variance = 0, kurtosis = 0;
};
Moments moments(const std::vector<float>& values) {
  Moments m;
  const auto n = static_cast<double>(values.size());
  for (float x : values) m.mean += x / n;
  for (float x : values) m.variance += std::pow(x - m.mean, 2) / n;
  for (float x : values) m.kurtosis += std::pow(x - m.mean, 4) / n / std::pow(m.variance, 2);
  return m;
}

TEST(initialize, normal_has_the_moments_and_quantiles_of_a_normal) {
  std::vector<float> values = drawn(Init::normal, 1 << 20, 7, "w", 0.02f);
  const Moments m = moments(values);
  // Standard errors over n = 2^20 draws: mean s/sqrt(n) = s/1024, variance s^2 sqrt(2/n), kurtosis sqrt(24/n); five of each.
  EXPECT_NEAR(m.mean, 0, 5 * 0.02 / 1024);
  EXPECT_NEAR(m.variance, 4e-4, 5 * 4e-4 * std::sqrt(2.0 / (1 << 20)));
  EXPECT_NEAR(m.kurtosis, 3, 5 * std::sqrt(24.0 / (1 << 20)) + 0.01);  // 0.01: tails beyond 4.3 sigma are cut
  std::sort(values.begin(), values.end());
  for (const auto& [p, z] : {std::pair(0.5, 0.0), std::pair(0.975, 1.959964), std::pair(0.0013499, -3.0)})
    EXPECT_NEAR(values[static_cast<size_t>(p * (1 << 20))], 0.02 * z, 0.02 * 0.025) << p;
  EXPECT_LT(values.back(), 0.02 * 4.4);
}

TEST(initialize, any_piece_equals_the_same_values_of_the_whole) {
  for (Init init : {Init::normal, Init::conv, Init::a_log, Init::dt_bias, Init::ones, Init::zeros}) {
    const std::vector<float> whole = drawn(init, 400);
    const TensorRow row{.name = "w", .shape = {100, 4}, .init = init};
    for (int64_t first : {0, 1, 2, 3, 4, 5, 131})
      for (int64_t count : {0, 1, 2, 3, 4, 5, 63}) {
        std::vector<float> piece(static_cast<size_t>(count));
        draw_values(row, 1, 1, first, piece);
        EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + first)) << first << " " << count;
      }
  }
}

TEST(initialize, seed_and_name_decide) {
  const std::vector<float> values = drawn(Init::normal, 4096);
  for (const auto& other : {drawn(Init::normal, 4096, 2), drawn(Init::normal, 4096, 1, "v")}) {
    double dot = 0;
    for (size_t i = 0; i < values.size(); ++i) dot += static_cast<double>(values[i]) * static_cast<double>(other[i]);
    EXPECT_LT(std::abs(dot), 5 * std::sqrt(4096.0));  // independent: variance of the sum is n
  }
}

TEST(initialize, bounded_distributions_fill_their_range) {
  const auto range = [](std::vector<float> v) {
    return std::pair(*std::min_element(v.begin(), v.end()), *std::max_element(v.begin(), v.end()));
  };
  const auto [conv_low, conv_high] = range(drawn(Init::conv, 1 << 14));  // width 4: U(-1/2, 1/2)
  EXPECT_TRUE(conv_low >= -0.5f && conv_low < -0.49f && conv_high <= 0.5f && conv_high > 0.49f);
  const auto [a_low, a_high] = range(drawn(Init::a_log, 1 << 14));  // log U(1, 16)
  EXPECT_TRUE(a_low >= 0 && a_low < 0.01f && a_high <= std::log(16.f) && a_high > std::log(15.9f));
  const auto [dt_low, dt_high] = range(drawn(Init::dt_bias, 1 << 14));  // softplus of it lies in [1e-3, 1e-1]
  EXPECT_NEAR(std::log1p(std::exp(dt_low)), 1e-3, 1e-5);
  EXPECT_NEAR(std::log1p(std::exp(dt_high)), 1e-1, 1e-3);
}

}  // namespace
}  // namespace linnet::model
