#include "runtime/exponentials.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace linnet::runtime {

constexpr size_t kLanes = 16;

float largest_of(std::span<const float> x) {
  float max[kLanes], nan[kLanes];
  std::fill(std::begin(max), std::end(max), -INFINITY);
  std::fill(std::begin(nan), std::end(nan), 0.f);
  const auto take = [&](size_t i, size_t lane) {
    max[lane] = x[i] > max[lane] ? x[i] : max[lane];
    nan[lane] = x[i] == x[i] ? nan[lane] : 1.f;
  };
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) take(i + lane, lane);
  for (; i < x.size(); ++i) take(i, 0);
  if (*std::max_element(std::begin(nan), std::end(nan)) > 0) return std::numeric_limits<float>::quiet_NaN();
  return *std::max_element(std::begin(max), std::end(max));
}

// exp(t) = 2^n exp(r), n = round(t / ln 2), |r| <= ln(2) / 2; exp(r) by its Taylor polynomial of degree 7, whose rest is below
// (ln(2) / 2)^8 / 8! = 5.2e-9, a tenth of half an ulp. ln 2 = 0.693359375 - 2.12194440e-4: n times the first part is exact.
void exp_below(std::span<const float> x, float max, float divisor, std::span<float> out) {
  constexpr float kRound = 12582912;  // 1.5 * 2^23: adding it rounds to the nearest integer
  constexpr float kLeast = -87;       // exp is above 2^-126 here
  const float* from = x.data();
  float* to = out.data();
  // Two loops: in one, g++ makes a branch of the clamp and no vectors of the rest.
  for (size_t i = 0; i < x.size(); ++i) {
    const float t = (from[i] - max) / divisor;
    to[i] = t > kLeast ? t : kLeast;
  }
  for (size_t i = 0; i < x.size(); ++i) {
    const float t = to[i];
    const float n = (t * 1.44269504f + kRound) - kRound;
    const float r = (t - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.f / 5040;
    p = p * r + 1.f / 720;
    p = p * r + 1.f / 120;
    p = p * r + 1.f / 24;
    p = p * r + 1.f / 6;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    const float power = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
    const int32_t kept = -static_cast<int32_t>(t > kLeast);  // all bits or none
    to[i] = std::bit_cast<float>(std::bit_cast<int32_t>(p * power) & kept);
  }
}

double sum_of(std::span<const float> x) {
  double sums[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= x.size(); i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += static_cast<double>(x[i + lane]);
  for (size_t lane = 0; i < x.size(); ++i, ++lane) sums[lane] += static_cast<double>(x[i]);
  double sum = 0;
  for (double s : sums) sum += s;
  return sum;
}

}  // namespace linnet::runtime
