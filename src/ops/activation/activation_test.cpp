// Activations against their definition: the whole range of f32, widths around the vector lengths, strides, in place.
#include "ops/activation/activation.h"

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

// exp_f32 is good to 2e-7 and 1 / (1 + e) adds two roundings; below e^-86.6 = 2.4e-38 the result may be 0.
constexpr test::Tolerance kTolerance{.abs = 3e-36, .rel = 5e-7, .why = "exp 2e-7, then 3 or 4 roundings of 6e-8"};

// Every exponent and both signs, zeros, infinities (but -inf for silu: NaN by the formula, both ways) and NaN.
OwnedTensor sweep() {
  const std::vector<double> special = {0.0,
                                       -0.0,
                                       88.7,
                                       88.8,
                                       -86.5,
                                       -86.7,
                                       104,
                                       -104,
                                       1e30,
                                       -1e30,
                                       std::numeric_limits<double>::infinity(),
                                       -std::numeric_limits<double>::infinity(),
                                       std::numeric_limits<double>::quiet_NaN(),
                                       1e-40,
                                       -1e-40};
  const int64_t n = 20001, m = static_cast<int64_t>(special.size());
  return OwnedTensor::filled({1, n + 400 + m}, [&](int64_t i) {
    if (i < n) return -110 + 220.0 * static_cast<double>(i) / static_cast<double>(n - 1);
    if (i < n + 400) return (i % 2 ? -1 : 1) * std::exp2(static_cast<double>((i - n) / 2 - 150) / 2);
    return special[static_cast<size_t>(i - n - 400)];
  });
}

TEST(Activation, SigmoidOverTheWholeRange) {
  const OwnedTensor x = sweep();
  const OwnedTensor got = OwnedTensor::zeros({1, x.view()[1]}), want = OwnedTensor::zeros({1, x.view()[1]});
  for (float factor : {1.0f, 2.0f}) {
    SigmoidArgs args{.x = x, .y = got, .factor = factor};
    test::run_plan(plan_sigmoid(args), args);
    args.y = want;
    sigmoid_ref(args);
    EXPECT_TRUE(test::close(got, want, kTolerance));
  }
}

TEST(Activation, SwigluOverTheWholeRange) {
  const OwnedTensor gate = sweep();
  const int64_t n = gate.view()[1];
  const OwnedTensor up = OwnedTensor::normal({1, n}, 3), got = OwnedTensor::zeros({1, n}),
                    want = OwnedTensor::zeros({1, n});
  SwigluArgs args{.gate = gate, .up = up, .y = got};
  test::run_plan(plan_swiglu(args), args);
  args.y = want;
  swiglu_ref(args);
  EXPECT_TRUE(test::close(got, want, kTolerance));
}

TEST(Activation, StridedRowsOfEveryWidth) {
  for (int64_t I : {0, 1, 3, 4, 7, 8, 15, 16, 17, 65, 1024})
    for (int64_t N : {0, 1, 2, 40}) {
      SCOPED_TRACE(cat("N=", N, " I=", I));
      const OwnedTensor both =
          OwnedTensor::normal({N, 2 * I + 3}, 1, 3);  // gate and up side by side, as one product makes them
      Tensor gate = both.view(), up = both.view();
      gate.shape[1] = up.shape[1] = I, up.data += I * 4;
      const OwnedTensor got = OwnedTensor::zeros({N, I}), want = OwnedTensor::zeros({N, I});
      SwigluArgs args{.gate = gate, .up = up, .y = got};
      test::run_plan(plan_swiglu(args), args);
      args.y = want;
      swiglu_ref(args);
      EXPECT_TRUE(test::close(got, want, kTolerance));

      SigmoidArgs sigmoid{.x = up, .y = got};
      test::run_plan(plan_sigmoid(sigmoid), sigmoid);
      sigmoid.y = want;
      sigmoid_ref(sigmoid);
      EXPECT_TRUE(test::close(got, want, kTolerance));

      AddArgs add{.x = gate, .y = got};
      test::run_plan(plan_add(add), add);
      AddArgs add_want{.x = gate, .y = want};
      add_ref(add_want);
      EXPECT_TRUE(
          test::close(got, want, {.abs = 4e-7, .rel = 6e-7, .why = "sigmoid's error, then one rounding of |x| < 16"}));
    }
}

TEST(Activation, AddIsExactlyRounded) {
  const OwnedTensor x = OwnedTensor::normal({7, 33}, 4), y = OwnedTensor::normal({7, 33}, 5), want = y;
  const AddArgs args{.x = x, .y = y};
  test::run_plan(plan_add(args), args);
  add_ref({.x = x, .y = want});
  EXPECT_TRUE(test::same_bits(y, want));
}

TEST(Activation, InPlaceAndThreadsGiveTheSameBits) {
  const int64_t N = 90, I = 401;
  const OwnedTensor gate = OwnedTensor::normal({N, I}, 6), up = OwnedTensor::normal({N, I}, 7);
  const OwnedTensor apart = OwnedTensor::zeros({N, I}), over_gate = gate, over_up = up;
  const SwigluArgs args{.gate = gate, .up = up, .y = apart};
  test::run_plan(plan_swiglu(args), args, 1);
  const SwigluArgs in_gate{.gate = over_gate, .up = up, .y = over_gate};
  test::run_plan(plan_swiglu(in_gate), in_gate, 3);
  const SwigluArgs in_up{.gate = gate, .up = over_up, .y = over_up};
  test::run_plan(plan_swiglu(in_up), in_up, 2);
  EXPECT_TRUE(test::same_bits(over_gate, apart));
  EXPECT_TRUE(test::same_bits(over_up, apart));
}

TEST(Activation, NamesWhatIsWrong) {
  const OwnedTensor a = OwnedTensor::zeros({2, 3}), b = OwnedTensor::zeros({2, 4});
  try {
    plan_swiglu({.gate = a, .up = b, .y = a});
    FAIL() << "accepted up of another width";
  } catch (const InvalidArgument& e) { EXPECT_STREQ(e.what(), "swiglu: up: expected [2, 3] f32, got [2, 4] f32"); }
  EXPECT_THROW(plan_sigmoid({.x = a, .y = b}), InvalidArgument);
  EXPECT_THROW(plan_add({.x = b, .y = a}), InvalidArgument);
}

}  // namespace
}  // namespace linnet::ops
