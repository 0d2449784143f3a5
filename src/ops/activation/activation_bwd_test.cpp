// Gradients of the activations: the definition against central differences, the variants against the definition.
#include "ops/activation/activation_bwd.h"

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/gradient.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;
using test::Point;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

TEST(ActivationBwd, SwigluReferenceIsTheSlopeOfItsForward) {
  const int64_t N = 7, I = 30;
  const OwnedTensor gate = OwnedTensor::normal({N, I}, 1, 2), up = OwnedTensor::normal({N, I}, 2);
  const OwnedTensor dy = OwnedTensor::normal({N, I}, 3);
  const OwnedTensor dgate = OwnedTensor::zeros({N, I}), dup = OwnedTensor::zeros({N, I});
  swiglu_ref_bwd({.gate = gate, .up = up, .dy = dy, .dgate = dgate, .dup = dup});
  const std::vector<double> weight = test::doubles(dy);
  EXPECT_TRUE(test::gradient_close({{"gate", gate, dgate}, {"up", up, dup}}, [&](const Point& p) {
    double loss = 0;
    for (size_t i = 0; i < weight.size(); ++i) loss += weight[i] * p[0][i] * sigmoid(p[0][i]) * p[1][i];
    return loss;
  }));
}

TEST(ActivationBwd, SigmoidReferenceIsTheSlopeOfItsForward) {
  for (float factor : {1.0f, 2.0f}) {
    const int64_t N = 5, I = 20;
    const OwnedTensor x = OwnedTensor::normal({N, I}, 4, 2), dy = OwnedTensor::normal({N, I}, 5);
    const OwnedTensor dx = OwnedTensor::zeros({N, I});
    // The gradient takes the forward's f32 output: so x is moved to where the output is exactly that.
    const OwnedTensor y = OwnedTensor::filled({N, I}, [&](int64_t i) { return factor * sigmoid(x.f32()[i]); });
    sigmoid_ref_bwd({.y = y, .dy = dy, .dx = dx, .factor = factor});
    const std::vector<double> weight = test::doubles(dy), outputs = test::doubles(y), inputs = test::doubles(x);
    EXPECT_TRUE(test::gradient_close({{"x", x, dx}}, [&](const Point& p) {
      double loss = 0;
      for (size_t i = 0; i < weight.size(); ++i) {
        const double shift = std::log(outputs[i] / (factor - outputs[i])) - inputs[i];
        loss += weight[i] * factor * sigmoid(p[0][i] + shift);
      }
      return loss;
    }));
  }
}

// Every sign and size of gate at |up|, |dy| <= 1, so that an absolute bound means something.
struct Sweep {
  static constexpr int64_t n = 20013;
  OwnedTensor gate, up = OwnedTensor::uniform({1, n}, 6, -1, 1), dy = OwnedTensor::uniform({1, n}, 7, -1, 1);
  explicit Sweep(double from, double to)
      : gate(OwnedTensor::filled({1, n}, [=](int64_t i) { return from + (to - from) * static_cast<double>(i) / n; })) {}

  void expect_close(const test::Tolerance& tolerance) const {
    const OwnedTensor dgate = OwnedTensor::zeros({1, n}), dup = dgate, dgate_want = dgate, dup_want = dgate;
    SwigluBwdArgs args{.gate = gate, .up = up, .dy = dy, .dgate = dgate, .dup = dup};
    test::run_plan(plan_swiglu_bwd(args), args);
    args.dgate = dgate_want, args.dup = dup_want;
    swiglu_ref_bwd(args);
    EXPECT_TRUE(test::close(dgate, dgate_want, tolerance));
    EXPECT_TRUE(test::close(dup, dup_want, tolerance));
  }
};

// sigmoid 5e-7, 4 roundings of 6e-8. 1 + x (1 - s) vanishes at x = -1.278: from a distance of 0.5 on it amplifies the error of the
// product by at most 3; at large x, 1 - s is good to 2^-25 until it is 0 at x = 17. Below e^-86.6 = 2.4e-38 the result may be 0, of
// a factor below 110.
constexpr test::Tolerance kTails{.abs = 3e-36, .rel = 3e-6, .why = "sigmoid 5e-7, amplified 3 times, 4 roundings"};

TEST(ActivationBwd, SwigluKeepsRelativePrecisionInBothTails) {
  Sweep(-110, -1.778).expect_close(kTails);
  Sweep(-0.778, 110).expect_close(kTails);
}

TEST(ActivationBwd, SwigluAroundTheMinimumOfSilu) {
  Sweep(-1.8, -0.7).expect_close({.abs = 5e-7, .rel = 2e-6, .why = "sigmoid 5e-7 of a sum of two terms below 1/3"});
}

TEST(ActivationBwd, SwigluAtSpecialValues) {
  constexpr double kInf = std::numeric_limits<double>::infinity(), kNaN = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> values = {0, -0.0, 1e-40, -1e-40, 1e30, -1e30, 3e38, -3e38, kInf, -kInf, kNaN};
  const int64_t n = static_cast<int64_t>(values.size());
  const OwnedTensor gate = OwnedTensor::filled({1, n}, [&](int64_t i) { return values[static_cast<size_t>(i)]; });
  const OwnedTensor one = OwnedTensor::filled({1, n}, [](int64_t) { return 1; });
  const OwnedTensor dgate = OwnedTensor::zeros({1, n}), dup = dgate, dgate_want = dgate, dup_want = dgate;
  SwigluBwdArgs args{.gate = gate, .up = one, .dy = one, .dgate = dgate, .dup = dup};
  test::run_plan(plan_swiglu_bwd(args), args);
  args.dgate = dgate_want, args.dup = dup_want;
  swiglu_ref_bwd(args);
  EXPECT_TRUE(test::close(dgate, dgate_want, kTails));
  EXPECT_TRUE(test::close(dup, dup_want, kTails));
  for (int64_t i = 0; i < 8; ++i)
    EXPECT_TRUE(std::isfinite(dgate.f32()[i])) << "gate " << values[static_cast<size_t>(i)];
}

TEST(ActivationBwd, SigmoidMatchesReference) {
  for (float factor : {1.0f, 2.0f}) {
    const int64_t n = 10007;  // from 0 to factor, both included
    const OwnedTensor y = OwnedTensor::filled(
        {1, n}, [&](int64_t i) { return factor * static_cast<double>(i) / static_cast<double>(n - 1); });
    const OwnedTensor dy = OwnedTensor::uniform({1, n}, 8, -1, 1), got = OwnedTensor::zeros({1, n}), want = got;
    SigmoidBwdArgs args{.y = y, .dy = dy, .dx = got, .factor = factor};
    test::run_plan(plan_sigmoid_bwd(args), args);
    args.dx = want;
    sigmoid_ref_bwd(args);
    EXPECT_TRUE(test::close(got, want, {.abs = 1.3e-7, .rel = 3e-7, .why = "1 - y / factor to 2^-24; |dy y| <= 2"}));
    EXPECT_EQ(got.f32()[0], 0);
    EXPECT_EQ(got.f32()[n - 1], 0);
  }
}

// A column range of a wider matrix.
Tensor columns(const OwnedTensor& wide, int64_t begin, int64_t end) { return wide.view().columns(begin, end); }

TEST(ActivationBwd, StridedRowsOfEveryWidth) {
  for (int64_t I : {0, 1, 3, 4, 7, 8, 15, 16, 17, 65, 1024})
    for (int64_t N : {0, 1, 2, 40}) {
      SCOPED_TRACE(cat("N=", N, " I=", I));
      const OwnedTensor both = OwnedTensor::normal({N, 2 * I + 3}, 1, 3),
                        wide_dy = OwnedTensor::uniform({N, I + 2}, 2, -1, 1);
      const OwnedTensor wide = OwnedTensor::filled({N, 2 * I + 3}, [](int64_t) { return 7; });
      const OwnedTensor dgate_want = OwnedTensor::zeros({N, I}), dup_want = dgate_want;
      const Tensor dgate = columns(wide, 0, I), dup = columns(wide, I + 1, 2 * I + 1);
      SwigluBwdArgs args{.gate = columns(both, 0, I), .up = columns(both, I, 2 * I), .dy = columns(wide_dy, 1, I + 1)};
      args.dgate = dgate, args.dup = dup;
      if (I == 0) args.dup.data = args.dgate.data;
      test::run_plan(plan_swiglu_bwd(args), args);
      args.dgate = dgate_want, args.dup = dup_want;
      swiglu_ref_bwd(args);
      const test::Tolerance tolerance{.abs = 1e-5, .rel = 2e-6, .why = "sigmoid 5e-7 of terms below 15"};
      EXPECT_TRUE(test::close(dgate, dgate_want, tolerance));
      EXPECT_TRUE(test::close(dup, dup_want, tolerance));
      for (int64_t n = 0; n < N; ++n)  // nothing written beside the views
        for (int64_t c : {I, 2 * I + 1, 2 * I + 2}) EXPECT_EQ(wide.f32()[n * (2 * I + 3) + c], 7) << n << ", " << c;

      const OwnedTensor y = OwnedTensor::uniform({N, I}, 3, 0, 1), want = OwnedTensor::zeros({N, I});
      SigmoidBwdArgs sigmoid_args{.y = y, .dy = args.dy, .dx = dgate};
      test::run_plan(plan_sigmoid_bwd(sigmoid_args), sigmoid_args);
      sigmoid_args.dx = want;
      sigmoid_ref_bwd(sigmoid_args);
      EXPECT_TRUE(test::close(dgate, want, {.abs = 7e-8, .rel = 3e-7, .why = "1 - y to 2^-24, |dy y| <= 1"}));
    }
}

TEST(ActivationBwd, InPlaceAndThreadsGiveTheSameBits) {
  const int64_t N = 90, I = 401;
  const OwnedTensor gate = OwnedTensor::normal({N, I}, 6), up = OwnedTensor::normal({N, I}, 7);
  const OwnedTensor dy = OwnedTensor::normal({N, I}, 8), dgate = OwnedTensor::zeros({N, I}), dup = dgate;
  const SwigluBwdArgs apart{.gate = gate, .up = up, .dy = dy, .dgate = dgate, .dup = dup};
  test::run_plan(plan_swiglu_bwd(apart), apart, 1);
  const OwnedTensor over_dgate = dy, over_dup = dy, other_dgate = OwnedTensor::zeros({N, I}), other_dup = other_dgate;
  const SwigluBwdArgs in_dgate{.gate = gate, .up = up, .dy = over_dgate, .dgate = over_dgate, .dup = other_dup};
  const SwigluBwdArgs in_dup{.gate = gate, .up = up, .dy = over_dup, .dgate = other_dgate, .dup = over_dup};
  test::run_plan(plan_swiglu_bwd(in_dgate), in_dgate, 3);
  test::run_plan(plan_swiglu_bwd(in_dup), in_dup, 2);
  EXPECT_TRUE(test::same_bits(over_dgate, dgate));
  EXPECT_TRUE(test::same_bits(other_dup, dup));
  EXPECT_TRUE(test::same_bits(other_dgate, dgate));
  EXPECT_TRUE(test::same_bits(over_dup, dup));

  const OwnedTensor y = OwnedTensor::uniform({N, I}, 9, 0, 1), dx = OwnedTensor::zeros({N, I}), over_dy = dy;
  const SigmoidBwdArgs sigmoid_apart{.y = y, .dy = dy, .dx = dx}, over{.y = y, .dy = over_dy, .dx = over_dy};
  test::run_plan(plan_sigmoid_bwd(sigmoid_apart), sigmoid_apart, 1);
  test::run_plan(plan_sigmoid_bwd(over), over, 3);
  EXPECT_TRUE(test::same_bits(over_dy, dx));
}

TEST(ActivationBwd, NamesWhatIsWrong) {
  const OwnedTensor a = OwnedTensor::zeros({2, 3}), b = OwnedTensor::zeros({2, 4}), c = OwnedTensor::zeros({2, 3});
  const auto message = [](auto plan) {
    try {
      plan();
    } catch (const InvalidArgument& e) { return std::string(e.what()); }
    return std::string("accepted");
  };
  EXPECT_EQ(message([&] { plan_swiglu_bwd({.gate = a, .up = a, .dy = a, .dgate = a, .dup = c}); }), "accepted");
  EXPECT_EQ(message([&] { plan_swiglu_bwd({.gate = a, .up = a, .dy = a, .dgate = a, .dup = b}); }),
            "swiglu_bwd: dup: expected [2, 3] f32, got [2, 4] f32");
  EXPECT_EQ(message([&] { plan_swiglu_bwd({.gate = a, .up = a, .dy = a, .dgate = c, .dup = c}); }),
            "swiglu_bwd: dup: expected memory other than dgate's, got the same");
  EXPECT_EQ(message([&] { plan_sigmoid_bwd({.y = b, .dy = a, .dx = a}); }),
            "sigmoid_bwd: y: expected [2, 3] f32, got [2, 4] f32");
  EXPECT_EQ(message([&] { plan_sigmoid_bwd({.y = a, .dy = a, .dx = a, .factor = 0}); }),
            "sigmoid_bwd: factor: expected more than 0, got 0");
}

}  // namespace
}  // namespace linnet::ops
