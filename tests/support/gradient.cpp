#include "support/gradient.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "core/text.h"

namespace linnet::test {
namespace {

constexpr int kTrials = 3;  // directions over each input, and over all

// d loss / ds at s = 0 of loss(x + s * direction).
double slope(const Point& x, const Point& direction, const std::function<double(const Point&)>& loss) {
  constexpr double h = 1e-3;
  const auto at = [&](double s) {
    Point moved = x;
    for (size_t k = 0; k < x.size(); ++k)
      for (size_t i = 0; i < x[k].size(); ++i) moved[k][i] += s * direction[k][i];
    return loss(moved);
  };
  return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
}

}  // namespace

std::vector<double> doubles(const ConstTensor& t) {
  std::vector<double> values;
  for (int64_t n = 0; n < t[0]; ++n) values.insert(values.end(), t.row<float>(n), t.row<float>(n) + t.row_elements());
  return values;
}

testing::AssertionResult gradient_close(const std::vector<GradientClaim>& claims,
                                        const std::function<double(const Point&)>& loss, uint64_t seed) {
  Point x, gradient;
  for (const GradientClaim& claim : claims) {
    if (!std::equal(claim.at.dims().begin(), claim.at.dims().end(), claim.gradient.dims().begin(),
                    claim.gradient.dims().end()))
      return testing::AssertionFailure() << claim.name << ": a gradient " << text_of(claim.gradient) << " of "
                                         << text_of(claim.at);
    x.push_back(doubles(claim.at)), gradient.push_back(doubles(claim.gradient));
  }
  const double rounding = 1e-10 * (1 + std::abs(loss(x)));
  Rng rng(seed);
  for (size_t k = 0; k <= claims.size(); ++k)  // the last round moves all inputs
    for (int trial = 0; trial < kTrials; ++trial) {
      Point direction = x;
      double claimed = 0, terms = 0;
      for (size_t j = 0; j < x.size(); ++j)
        for (size_t i = 0; i < x[j].size(); ++i) {
          direction[j][i] = k == claims.size() || k == j ? rng.normal() : 0;
          claimed += gradient[j][i] * direction[j][i], terms += std::abs(gradient[j][i] * direction[j][i]);
        }
      const double found = slope(x, direction, loss), allowed = 0x1p-24 * terms + rounding;
      if (!(std::abs(claimed - found) <= allowed))
        return testing::AssertionFailure()
               << "along direction " << trial << " of " << (k == claims.size() ? "all inputs" : claims[k].name)
               << ": claimed slope " << claimed << ", found " << found << ", allowed " << allowed;
    }
  return testing::AssertionSuccess();
}

}  // namespace linnet::test
