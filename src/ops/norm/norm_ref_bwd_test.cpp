// Gradients of the normalisations: the definition against central differences of the forward in double.
#include <cmath>

#include "ops/norm/norm_bwd.h"
#include "support/gradient.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;
using test::Point;

// x / sqrt(q sum x^2 + eps) of one row, in double.
std::vector<double> normalised(const std::vector<double>& x, size_t first, size_t width, double q, double eps) {
  double sum = 0;
  for (size_t i = first; i < first + width; ++i) sum += x[i] * x[i];
  std::vector<double> y;
  for (size_t i = first; i < first + width; ++i) y.push_back(x[i] / std::sqrt(q * sum + eps));
  return y;
}

TEST(NormBwd, RmsReferenceIsTheSlopeOfItsForward) {
  const int64_t N = 6, C = 9;
  const float eps = 0.01f;  // large enough to show where it enters
  const OwnedTensor x = OwnedTensor::normal({N, C}, 1), weight = OwnedTensor::normal({C}, 2);
  const OwnedTensor dy = OwnedTensor::normal({N, C}, 3), dx = OwnedTensor::zeros({N, C}),
                    dweight = OwnedTensor::zeros({C});
  rms_norm_ref_bwd({.x = x, .weight = weight, .dy = dy, .dx = dx, .dweight = dweight, .eps = eps});
  const std::vector<double> loss_weight = test::doubles(dy);
  EXPECT_TRUE(test::gradient_close({{"x", x, dx}, {"weight", weight, dweight}}, [&](const Point& p) {
    double loss = 0;
    for (size_t first = 0; first < p[0].size(); first += static_cast<size_t>(C)) {
      const std::vector<double> y = normalised(p[0], first, static_cast<size_t>(C), 1.0 / C, eps);
      for (size_t c = 0; c < y.size(); ++c) loss += loss_weight[first + c] * y[c] * p[1][c];
    }
    return loss;
  }));
}

TEST(NormBwd, L2ReferenceIsTheSlopeOfItsForward) {
  const int64_t N = 4, H = 3, D = 5;
  const float eps = 0.1f;
  const OwnedTensor x = OwnedTensor::normal({N, H, D}, 4), dy = OwnedTensor::normal({N, H, D}, 5);
  const OwnedTensor dx = OwnedTensor::zeros({N, H, D});
  l2_norm_ref_bwd({.x = x, .dy = dy, .dx = dx, .eps = eps});
  const std::vector<double> loss_weight = test::doubles(dy);
  EXPECT_TRUE(test::gradient_close({{"x", x, dx}}, [&](const Point& p) {
    double loss = 0;
    for (size_t first = 0; first < p[0].size(); first += static_cast<size_t>(D)) {
      const std::vector<double> y = normalised(p[0], first, static_cast<size_t>(D), 1, eps);
      for (size_t d = 0; d < y.size(); ++d) loss += loss_weight[first + d] * y[d];
    }
    return loss;
  }));
}

TEST(NormBwd, GatedReferenceIsTheSlopeOfItsForward) {
  for (GateActivation activation : {GateActivation::sigmoid, GateActivation::silu}) {
    SCOPED_TRACE(activation == GateActivation::silu ? "silu" : "sigmoid");
    const int64_t N = 4, H = 3, D = 5;
    const float eps = 0.01f;
    const OwnedTensor x = OwnedTensor::normal({N, H, D}, 6), gate = OwnedTensor::normal({N, H, D}, 7, 2);
    const OwnedTensor weight = OwnedTensor::normal({D}, 8), dy = OwnedTensor::normal({N, H, D}, 9);
    const OwnedTensor dx = OwnedTensor::zeros({N, H, D}), dgate = dx, dweight = OwnedTensor::zeros({D});
    gated_norm_ref_bwd({.x = x,
                        .gate = gate,
                        .weight = weight,
                        .dy = dy,
                        .dx = dx,
                        .dgate = dgate,
                        .dweight = dweight,
                        .eps = eps,
                        .activation = activation});
    const std::vector<double> loss_weight = test::doubles(dy);
    EXPECT_TRUE(
        test::gradient_close({{"x", x, dx}, {"gate", gate, dgate}, {"weight", weight, dweight}}, [&](const Point& p) {
          double loss = 0;
          for (size_t first = 0; first < p[0].size(); first += static_cast<size_t>(D)) {
            const std::vector<double> y = normalised(p[0], first, static_cast<size_t>(D), 1.0 / D, eps);
            for (size_t d = 0; d < y.size(); ++d) {
              const double z = p[1][first + d], s = 1 / (1 + std::exp(-z));
              loss += loss_weight[first + d] * y[d] * p[2][d] * (activation == GateActivation::silu ? z * s : s);
            }
          }
          return loss;
        }));
  }
}

}  // namespace
}  // namespace linnet::ops
