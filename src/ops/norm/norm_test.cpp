// Normalisations against their definition: widths around the vector lengths, strided rows, in place, extreme values.
#include "ops/norm/norm.h"

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

// Widths around every vector length (4, 8, 16), around four vectors of each, and the model's own.
constexpr int64_t kWidths[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 2304};

// The sum of n squares has n terms of one sign: its relative error is at most (n / (4 lanes) + 8) roundings of 6e-8,
// half of which reaches the root; then 4 roundings. n / 16 + 20 covers all lane counts.
test::Tolerance norm_tolerance(int64_t width) {
  const double rel = (static_cast<double>(width) / 16 + 20) * 6e-8;
  return {.abs = 1e-37, .rel = rel, .row_rel = rel, .why = "(width/16 + 20) roundings of 2^-24"};
}

// A column range [3, 3 + C) of a wider matrix: row stride > width, rows not aligned.
template <class T>
T inner_columns(T wide, int64_t C) {
  T t = wide;
  t.shape[1] = C;
  t.data += 3 * size_of(wide.dtype);
  return t;
}

TEST(Norm, RmsMatchesReferenceAtEveryWidth) {
  for (int64_t C : kWidths) {
    for (int64_t N : {0, 1, 3, 70}) {
      SCOPED_TRACE(cat("N=", N, " C=", C));
      const OwnedTensor wide = OwnedTensor::normal({N, C + 5}, 1, 3), weight = OwnedTensor::normal({C}, 2, 1, 1);
      const OwnedTensor got = OwnedTensor::zeros({N, C + 5}), want = OwnedTensor::zeros({N, C});
      RmsNormArgs args{
          .x = inner_columns(ConstTensor(wide), C), .weight = weight, .y = inner_columns(got.view(), C), .eps = 1e-5f};
      test::run_plan(plan_rms_norm(args), args);
      const Tensor result = args.y;
      args.y = want;
      rms_norm_ref(args);
      EXPECT_TRUE(test::close(result, want, norm_tolerance(C)));
    }
  }
}

TEST(Norm, RmsRoundsBeforeTheWeightWhenAsked) {
  const int64_t N = 40, C = 129;
  const OwnedTensor x = OwnedTensor::normal({N, C}, 5), weight = OwnedTensor::normal({C}, 6, 1, 1);
  const OwnedTensor got = OwnedTensor::zeros({N, C}), want = OwnedTensor::zeros({N, C});
  RmsNormArgs args{.x = x, .weight = weight, .y = got, .eps = 1e-5f, .round_before_weight = true};
  test::run_plan(plan_rms_norm(args), args);
  args.y = want;
  rms_norm_ref(args);
  // One f32 rounding before the bf16 rounding may move a value across a tie: then one bf16 step, 2^-8 at most. The row
  // norm shows that this stays rare.
  EXPECT_TRUE(test::close(got, want, {.abs = 1e-37, .rel = 0x1p-7, .row_rel = 2e-4, .why = "one bf16 step, rarely"}));
  int64_t off = 0;
  for (int64_t i = 0; i < N * C; ++i) off += got.f32()[i] != want.f32()[i];
  EXPECT_LT(off, N * C / 100);
}

TEST(Norm, RmsRoundsTiesToEven) {
  // Rows (t, u) with t^2 + u^2 = 2, so that the norm divides by 1; bf16 near 1 has steps of 2^-7, each t is half way.
  for (const auto& [t, even] : {std::pair{1 + 0x1p-8, 1.0}, std::pair{1 + 3 * 0x1p-8, 1 + 0x1p-6}}) {
    const OwnedTensor x =
        OwnedTensor::filled({1, 2}, [&, t = t](int64_t i) { return i == 0 ? t : std::sqrt(2 - t * t); });
    const OwnedTensor one = OwnedTensor::filled({2}, [](int64_t) { return 1; }), y = OwnedTensor::zeros({1, 2});
    RmsNormArgs args{.x = x, .weight = one, .y = y, .eps = 0};
    test::run_plan(plan_rms_norm(args), args);
    ASSERT_EQ(y.f32()[0], t) << "the row does not have norm 1: nothing to learn from it";
    args.round_before_weight = true;
    test::run_plan(plan_rms_norm(args), args);
    EXPECT_EQ(y.f32()[0], even);
  }
}

TEST(Norm, RmsOfZerosAndOfHugeAndOfNaN) {
  const OwnedTensor x = OwnedTensor::filled({4, 20}, [](int64_t i) {
    if (i < 20) return 0.0;
    if (i < 40) return 1e15 * static_cast<double>(i - 29);
    if (i == 45) return static_cast<double>(std::numeric_limits<float>::quiet_NaN());
    return 1.0;
  });
  const OwnedTensor weight = OwnedTensor::filled({20}, [](int64_t) { return 1.0; });
  const OwnedTensor got = OwnedTensor::zeros({4, 20}), want = OwnedTensor::zeros({4, 20});
  RmsNormArgs args{.x = x, .weight = weight, .y = got, .eps = 1e-5f};
  test::run_plan(plan_rms_norm(args), args);
  args.y = want;
  rms_norm_ref(args);
  EXPECT_TRUE(test::close(got, want, norm_tolerance(20)));
  EXPECT_TRUE(std::isnan(want.f32()[40]));  // the row with the NaN is all NaN, and only that row
  EXPECT_EQ(want.f32()[60], got.f32()[60]);
}

TEST(Norm, L2MatchesReference) {
  for (int64_t D : {1, 5, 16, 64, 65, 128}) {
    for (int64_t H : {1, 3}) {
      SCOPED_TRACE(cat("H=", H, " D=", D));
      const int64_t N = 37;
      const OwnedTensor wide = OwnedTensor::normal({N, H * D + 7}, 3, 0.1);
      ConstTensor x = ConstTensor(wide.f32(), DType::f32, {N, H, D});
      x.row_stride = H * D + 7;
      const OwnedTensor got = OwnedTensor::zeros({N, H, D}), want = OwnedTensor::zeros({N, H, D});
      L2NormArgs args{.x = x, .y = got, .eps = 1e-6f};
      test::run_plan(plan_l2_norm(args), args);
      args.y = want;
      l2_norm_ref(args);
      EXPECT_TRUE(test::close(got, want, norm_tolerance(D)));
    }
  }
}

TEST(Norm, L2AddsEpsToTheSum) {  // with eps inside a mean the factor would be sqrt(D) off: x = sqrt(eps / D) shows it
  const OwnedTensor x = OwnedTensor::filled({1, 1, 4}, [](int64_t) { return 1e-3; }), y = OwnedTensor::zeros({1, 1, 4});
  const L2NormArgs args{.x = x, .y = y, .eps = 4e-6f};
  test::run_plan(plan_l2_norm(args), args);
  EXPECT_NEAR(y.f32()[0], 1e-3 / std::sqrt(8e-6), 1e-6);
}

TEST(Norm, GatedMatchesReference) {
  for (GateActivation activation : {GateActivation::sigmoid, GateActivation::silu}) {
    for (int64_t D : {1, 3, 16, 20, 64, 128}) {
      SCOPED_TRACE(cat("D=", D, " silu=", activation == GateActivation::silu));
      const int64_t N = 33, H = 5;
      const OwnedTensor x = OwnedTensor::normal({N, H, D}, 7, 2), weight = OwnedTensor::normal({D}, 8, 1, 1);
      const OwnedTensor wide = OwnedTensor::normal({N, H * D + 2}, 9, 10);
      ConstTensor gate = ConstTensor(wide.f32(), DType::f32, {N, H, D});
      gate.row_stride = H * D + 2;
      const OwnedTensor got = OwnedTensor::zeros({N, H, D}), want = OwnedTensor::zeros({N, H, D});
      GatedNormArgs args{.x = x, .gate = gate, .weight = weight, .y = got, .eps = 1e-5f, .activation = activation};
      test::run_plan(plan_gated_norm(args), args);
      args.y = want;
      gated_norm_ref(args);
      EXPECT_TRUE(test::close(got, want, norm_tolerance(D)));
    }
  }
}

TEST(Norm, InPlaceGivesTheSameBits) {
  const int64_t N = 9, H = 2, D = 35;
  const OwnedTensor x = OwnedTensor::normal({N, H, D}, 11), gate = OwnedTensor::normal({N, H, D}, 12);
  const OwnedTensor weight = OwnedTensor::normal({D}, 13), apart = OwnedTensor::zeros({N, H, D});
  const OwnedTensor gated = x, l2 = x, l2_apart = apart;
  GatedNormArgs args{.x = x, .gate = gate, .weight = weight, .y = apart, .eps = 1e-5f};
  test::run_plan(plan_gated_norm(args), args);
  args.x = gated, args.y = gated;
  test::run_plan(plan_gated_norm(args), args);
  EXPECT_TRUE(test::same_bits(gated, apart));

  L2NormArgs l2_args{.x = x, .y = l2_apart, .eps = 1e-6f};
  test::run_plan(plan_l2_norm(l2_args), l2_args);
  l2_args.x = l2, l2_args.y = l2;
  test::run_plan(plan_l2_norm(l2_args), l2_args);
  EXPECT_TRUE(test::same_bits(l2, l2_apart));
}

TEST(Norm, RowsDoNotDependOnThreadsOrNeighbours) {
  const int64_t N = 300, C = 200;
  const OwnedTensor x = OwnedTensor::normal({N, C}, 21), weight = OwnedTensor::normal({C}, 22);
  const OwnedTensor together = OwnedTensor::zeros({N, C}), alone = OwnedTensor::zeros({N, C});
  RmsNormArgs args{.x = x, .weight = weight, .y = together, .eps = 1e-5f};
  test::run_plan(plan_rms_norm(args), args, 3);
  for (int64_t n = 0; n < N; ++n) {
    RmsNormArgs one{.x = x.view().rows(n, n + 1), .weight = weight, .y = alone.view().rows(n, n + 1), .eps = 1e-5f};
    test::run_plan(plan_rms_norm(one), one, 1);
  }
  EXPECT_TRUE(test::same_bits(together, alone));
}

TEST(Norm, NamesWhatIsWrong) {
  const OwnedTensor x = OwnedTensor::zeros({2, 8}), weight = OwnedTensor::zeros({9});
  const RmsNormArgs args{.x = x, .weight = weight, .y = x, .eps = 1e-5f};
  try {
    plan_rms_norm(args);
    FAIL() << "accepted a weight of 9 for rows of 8";
  } catch (const InvalidArgument& e) { EXPECT_STREQ(e.what(), "rms_norm: weight: expected [8] f32, got [9] f32"); }
  const OwnedTensor heads = OwnedTensor::zeros({2, 2, 4});
  EXPECT_THROW(plan_l2_norm({.x = heads, .y = heads, .eps = -1}), InvalidArgument);
  EXPECT_THROW(plan_gated_norm({.x = heads, .gate = x, .weight = weight, .y = heads, .eps = 0}), InvalidArgument);
}

}  // namespace
}  // namespace linnet::ops
