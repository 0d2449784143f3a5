// Gradients of the normalisations, the variants against the definition: widths, strides, blocks of tokens, extreme values.
#include "ops/norm/norm_bwd.h"

#include <array>
#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/gradient.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

// The largest term of dx in each row: r (max |g| + max |x r| q sum |g x r|) with g = dy factor. What cancels in dx was this large.
std::vector<double> row_scales(const ConstTensor& x, const ConstTensor& factored_dy, int64_t width, double q,
                               double eps) {
  const std::vector<double> xs = test::doubles(x), gs = test::doubles(factored_dy);
  std::vector<double> scales;
  for (size_t first = 0; first < xs.size(); first += static_cast<size_t>(width)) {
    double squares = 0, products = 0, max_x = 0, max_g = 0;
    for (size_t i = first; i < first + static_cast<size_t>(width); ++i) {
      squares += xs[i] * xs[i], products += std::abs(xs[i] * gs[i]);
      max_x = std::max(max_x, std::abs(xs[i])), max_g = std::max(max_g, std::abs(gs[i]));
    }
    const double r = 1 / std::sqrt(q * squares + eps);
    scales.push_back(r * (max_g + max_x * r * q * products * r));
  }
  return scales;
}

// The sums of a row have width terms in 2 accumulators of at least 4 lanes: width / 8 roundings at worst, their root in the mean;
// then fewer than 20 more, gate included (5e-7 of one factor).
void expect_close_rows(const Tensor& got, const Tensor& want, int64_t width, const std::vector<double>& scales) {
  const double worst = (static_cast<double>(width) / 8 + 20) * 6e-8, mean = (std::sqrt(width / 8.0) + 20) * 6e-8;
  const Tensor got_rows = got, want_rows = want;
  const int64_t rows_a_token = got.row_elements() / width;
  for (int64_t i = 0; i < static_cast<int64_t>(scales.size()); ++i) {
    const int64_t n = i / rows_a_token, at = i % rows_a_token * width;
    const auto row = [&](const Tensor& t) { return ConstTensor(t.row<float>(n) + at, DType::f32, {1, width}); };
    const double scale = scales[static_cast<size_t>(i)];
    ASSERT_TRUE(test::close(
        row(got_rows), row(want_rows),
        {.abs = worst * scale, .rel = 0, .row_rel = mean, .why = "width/8 + 20 roundings of the largest term"}))
        << "row " << i;
  }
}

// got = some initial gradient + sum over tokens; terms bound the sum of the terms' sizes.
test::Tolerance weight_tolerance(int64_t n_tokens, int64_t width, double terms) {
  const double roundings =
      static_cast<double>(std::max<int64_t>(32, n_tokens / 128)) + static_cast<double>(width) / 16 + 20;
  return {.abs = roundings * 6e-8 * (1 + terms), .rel = 1e-7, .why = "a block's tokens + width/16 + 20 roundings"};
}

// Columns [3, 3 + width) of wider rows, seen as [N, H, D] or [N, C].
struct Wide {
  OwnedTensor memory;
  Tensor inner;
  Wide(std::initializer_list<int64_t> dims, uint64_t seed, double stddev = 1) {
    int64_t width = 1;
    for (auto d = dims.begin() + 1; d != dims.end(); ++d) width *= *d;
    memory = OwnedTensor::normal({*dims.begin(), width + 5}, seed, stddev);
    inner = Tensor(memory.f32() + 3, DType::f32, dims);
    inner.row_stride = width + 5;
  }
  Wide(const Wide& o) : memory(o.memory), inner(o.inner) { inner.data = memory.view().data + 3 * sizeof(float); }
  bool same_beside(const Wide& before) const {
    const int64_t stride = inner.row_stride;
    for (int64_t n = 0; n < inner[0]; ++n)
      for (int64_t c : {int64_t{0}, int64_t{2}, stride - 2, stride - 1})
        if (memory.f32()[n * stride + c] != before.memory.f32()[n * stride + c]) return false;
    return true;
  }
};

OwnedTensor times(const ConstTensor& dy, const std::function<double(int64_t)>& factor) {
  const std::vector<double> values = test::doubles(dy);
  return OwnedTensor::filled({dy[0], dy.row_elements()},
                             [&](int64_t i) { return values[static_cast<size_t>(i)] * factor(i); });
}

// Token counts around a block of 32 and above 128 blocks of it.
constexpr int64_t kTokens[] = {0, 1, 3, 31, 32, 33, 65};

void check_rms(int64_t N, int64_t C, bool accumulate) {
  SCOPED_TRACE(cat("N=", N, " C=", C, " accumulate=", accumulate));
  const Wide x({N, C}, 1, 3), dy({N, C}, 2), dx({N, C}, 3), dx_before = dx;
  const OwnedTensor weight = OwnedTensor::normal({C}, 4, 1, 1), want = OwnedTensor::zeros({N, C});
  const OwnedTensor dweight = OwnedTensor::normal({C}, 5), dweight_want = dweight;
  RmsNormBwdArgs args{.x = x.inner, .weight = weight, .dy = dy.inner, .dx = dx.inner, .dweight = dweight, .eps = 1e-5f};
  args.accumulate = accumulate;
  for (int64_t n = 0; n < N; ++n) std::copy_n(dx.inner.row<float>(n), C, want.view().row<float>(n));
  test::run_plan(plan_rms_norm_bwd(args), args);
  args.dx = want, args.dweight = dweight_want;
  rms_norm_ref_bwd(args);
  const OwnedTensor g = times(dy.inner, [&](int64_t i) { return weight.f32()[i % C]; });
  std::vector<double> scales = row_scales(x.inner, g, C, 1.0 / static_cast<double>(C), 1e-5);
  if (accumulate)
    for (double& scale : scales) scale += 0.5;  // one rounding of a sum of N(0, 1) and dx: 5 * 6e-8 at most
  expect_close_rows(dx.inner, want, C, scales);
  EXPECT_TRUE(test::close(dweight, dweight_want, weight_tolerance(N, C, static_cast<double>(N))));
  EXPECT_TRUE(dx.same_beside(dx_before));
}

TEST(NormBwd, RmsMatchesReference) {
  for (int64_t C : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 300, 2304})
    for (int64_t N : kTokens)
      for (bool accumulate : {false, true}) check_rms(N, C, accumulate);
  check_rms(5000, 6, false);  // blocks of 40 tokens
}

void check_l2(int64_t N, int64_t H, int64_t D) {
  SCOPED_TRACE(cat("N=", N, " H=", H, " D=", D));
  const Wide x({N, H, D}, 11, 0.3), dy({N, H, D}, 12), dx({N, H, D}, 13), dx_before = dx;
  const OwnedTensor want = OwnedTensor::zeros({N, H, D});
  L2NormBwdArgs args{.x = x.inner, .dy = dy.inner, .dx = dx.inner, .eps = 1e-6f};
  test::run_plan(plan_l2_norm_bwd(args), args);
  args.dx = want;
  l2_norm_ref_bwd(args);
  expect_close_rows(dx.inner, want, D, row_scales(x.inner, dy.inner, D, 1, 1e-6));
  EXPECT_TRUE(dx.same_beside(dx_before));
}

TEST(NormBwd, L2MatchesReference) {
  for (int64_t D : {1, 3, 8, 16, 20, 64, 65, 128})
    for (int64_t N : kTokens)
      for (int64_t H : {1, 3}) check_l2(N, H, D);
}

void check_gated(int64_t N, int64_t H, int64_t D, GateActivation activation) {
  SCOPED_TRACE(cat("N=", N, " H=", H, " D=", D, " silu=", activation == GateActivation::silu));
  const Wide x({N, H, D}, 21, 2), gate({N, H, D}, 22, 4), dy({N, H, D}, 23), dx({N, H, D}, 24), dgate({N, H, D}, 25);
  const Wide dx_before = dx, dgate_before = dgate;
  const OwnedTensor weight = OwnedTensor::normal({D}, 26, 1, 1), dweight = OwnedTensor::normal({D}, 27);
  const OwnedTensor dx_want = OwnedTensor::zeros({N, H, D}), dgate_want = dx_want, dweight_want = dweight;
  GatedNormBwdArgs args{.x = x.inner,
                        .gate = gate.inner,
                        .weight = weight,
                        .dy = dy.inner,
                        .dx = dx.inner,
                        .dgate = dgate.inner,
                        .dweight = dweight,
                        .eps = 1e-5f,
                        .activation = activation};
  test::run_plan(plan_gated_norm_bwd(args), args);
  args.dx = dx_want, args.dgate = dgate_want, args.dweight = dweight_want;
  gated_norm_ref_bwd(args);
  const std::vector<double> gates = test::doubles(gate.inner);
  const OwnedTensor g = times(dy.inner, [&](int64_t i) {
    const double z = gates[static_cast<size_t>(i)], s = 1 / (1 + std::exp(-z));
    return weight.f32()[i % D] * (activation == GateActivation::silu ? z * s : s);
  });
  expect_close_rows(dx.inner, dx_want, D, row_scales(x.inner, g, D, 1.0 / static_cast<double>(D), 1e-5));
  // Of sizes |dy x^ weight| <= 5 sqrt(D) 5; silu' is good to 5e-7 beside its zero, everything else relatively.
  EXPECT_TRUE(test::close(dgate.inner, dgate_want,
                          {.abs = activation == GateActivation::silu ? 1.2e-5 : 1e-36,
                           .rel = (static_cast<double>(D) / 16 + 20) * 6e-8 + 3e-6,
                           .why = "(D/16 + 20) roundings, the gate's slope"}));
  const double terms = static_cast<double>(N * H) * (activation == GateActivation::silu ? 4 : 1);
  EXPECT_TRUE(test::close(dweight, dweight_want, weight_tolerance(N * H, D, terms)));
  EXPECT_TRUE(dx.same_beside(dx_before));
  EXPECT_TRUE(dgate.same_beside(dgate_before));
}

TEST(NormBwd, GatedMatchesReference) {
  for (GateActivation activation : {GateActivation::sigmoid, GateActivation::silu}) {
    for (int64_t D : {1, 3, 8, 16, 20, 64, 65, 128})
      for (int64_t N : kTokens) check_gated(N, D % 2 ? 1 : 3, D, activation);
    check_gated(4200, 2, 4, activation);  // blocks of 33 tokens
  }
}

TEST(NormBwd, SaturatedGatesStayFinite) {
  for (GateActivation activation : {GateActivation::sigmoid, GateActivation::silu}) {
    const OwnedTensor x = OwnedTensor::filled({1, 1, 6}, [](int64_t i) { return static_cast<double>(i) - 2; });
    const OwnedTensor gate = OwnedTensor::filled(
        {1, 1, 6}, [](int64_t i) { return std::array{-1e30, -200., -30., 30., 200., 1e30}[static_cast<size_t>(i)]; });
    const OwnedTensor one = OwnedTensor::filled({6}, [](int64_t) { return 1; }), dy = OwnedTensor::normal({1, 1, 6}, 1);
    const OwnedTensor dx = OwnedTensor::zeros({1, 1, 6}), dgate = dx, dweight = OwnedTensor::zeros({6});
    const OwnedTensor dgate_want = dx, dx_want = dx, dweight_want = dweight;
    GatedNormBwdArgs args{.x = x, .gate = gate, .weight = one, .dy = dy, .dx = dx, .dgate = dgate, .dweight = dweight};
    args.eps = 1e-5f, args.activation = activation;
    test::run_plan(plan_gated_norm_bwd(args), args);
    args.dx = dx_want, args.dgate = dgate_want, args.dweight = dweight_want;
    gated_norm_ref_bwd(args);
    for (int64_t i = 0; i < 6; ++i) EXPECT_TRUE(std::isfinite(dgate.f32()[i]) && std::isfinite(dx.f32()[i])) << i;
    EXPECT_TRUE(test::close(dgate, dgate_want, {.abs = 1e-36, .rel = 3e-6, .why = "both tails keep their precision"}));
    if (activation == GateActivation::sigmoid) { EXPECT_NE(dgate.f32()[3], 0) << "1 - sigmoid(30) = 9.4e-14 was lost"; }
  }
}

TEST(NormBwd, ZeroRowsAndNaN) {
  const int64_t N = 4, C = 20;
  const OwnedTensor x = OwnedTensor::filled({N, C}, [](int64_t i) {
    if (i < 20) return 0.0;
    return i == 45 ? static_cast<double>(std::numeric_limits<float>::quiet_NaN()) : 1e15 * static_cast<double>(i % 7);
  });
  const OwnedTensor weight = OwnedTensor::normal({C}, 1), dy = OwnedTensor::normal({N, C}, 2);
  const OwnedTensor dx = OwnedTensor::zeros({N, C}), want = dx, dweight = OwnedTensor::zeros({C}),
                    dweight_want = dweight;
  RmsNormBwdArgs args{.x = x, .weight = weight, .dy = dy, .dx = dx, .dweight = dweight, .eps = 1e-5f};
  test::run_plan(plan_rms_norm_bwd(args), args);
  args.dx = want, args.dweight = dweight_want;
  rms_norm_ref_bwd(args);
  EXPECT_TRUE(test::close(dx.view().rows(0, 1), want.view().rows(0, 1), {.rel = 1e-6, .why = "r dy weight"}));
  // dx is about 1e-15 in the huge rows and NaN in the third.
  EXPECT_TRUE(
      test::close(dx.view().rows(1, 4), want.view().rows(1, 4), {.abs = 1e-21, .rel = 1e-5, .why = "1e-15 * 1e-6"}));
  for (int64_t c = 0; c < C; ++c) EXPECT_TRUE(std::isnan(dx.f32()[40 + c]) && std::isnan(dweight.f32()[c])) << c;
}

TEST(NormBwd, InPlaceAndThreadsGiveTheSameBits) {
  const int64_t N = 4200, H = 2, D = 11, C = H * D;
  const OwnedTensor x = OwnedTensor::normal({N, H, D}, 1), gate = OwnedTensor::normal({N, H, D}, 2);
  const OwnedTensor dy = OwnedTensor::normal({N, H, D}, 3), weight = OwnedTensor::normal({C}, 4);
  const auto flat = [&](const OwnedTensor& t) { return t.view().reshaped({N, C}); };
  const Tensor head_weight = Tensor::of(weight.f32(), {D});
  const OwnedTensor none = OwnedTensor::zeros({N, H, D}), no_weight = OwnedTensor::zeros({C});
  const OwnedTensor rms = none, l2 = none, gated = none, dgate = none, rms_weight = no_weight, gated_weight = no_weight;
  for (int threads : {1, 2, 3}) {
    SCOPED_TRACE(cat(threads, " threads"));
    OwnedTensor dx[3] = {dy, dy, dy}, dg = none, dw[2] = {no_weight, no_weight};  // dx in dy's place
    if (threads == 1) dx[0] = dx[1] = dx[2] = none;
    const auto dy_of = [&](int i) { return threads == 1 ? dy.view() : dx[i].view(); };
    const RmsNormBwdArgs rms_args{.x = flat(x),
                                  .weight = weight,
                                  .dy = dy_of(0).reshaped({N, C}),
                                  .dx = flat(dx[0]),
                                  .dweight = dw[0],
                                  .eps = 1e-5f};
    const L2NormBwdArgs l2_args{.x = x, .dy = dy_of(1), .dx = dx[1], .eps = 1e-6f};
    const GatedNormBwdArgs gated_args{.x = x,
                                      .gate = gate,
                                      .weight = head_weight,
                                      .dy = dy_of(2),
                                      .dx = dx[2],
                                      .dgate = dg,
                                      .dweight = Tensor::of(dw[1].f32(), {D}),
                                      .eps = 1e-5f};
    test::run_plan(plan_rms_norm_bwd(rms_args), rms_args, threads);
    test::run_plan(plan_l2_norm_bwd(l2_args), l2_args, threads);
    test::run_plan(plan_gated_norm_bwd(gated_args), gated_args, threads);
    const OwnedTensor* got[] = {&dx[0], &dx[1], &dx[2], &dg, &dw[0], &dw[1]};
    const OwnedTensor* first[] = {&rms, &l2, &gated, &dgate, &rms_weight, &gated_weight};
    for (size_t i = 0; i < 6; ++i) {
      if (threads == 1) std::copy_n(got[i]->f32(), got[i]->view().elements(), first[i]->f32());
      EXPECT_TRUE(test::same_bits(*got[i], *first[i])) << i;
    }
  }
}

TEST(NormBwd, NamesWhatIsWrong) {
  const OwnedTensor a = OwnedTensor::zeros({2, 8}), b = a, w = OwnedTensor::zeros({8}), bad = OwnedTensor::zeros({9});
  const OwnedTensor h = OwnedTensor::zeros({2, 2, 4}), k = h, hw = OwnedTensor::zeros({4});
  const auto message = [](auto plan) {
    try {
      plan();
    } catch (const InvalidArgument& e) { return std::string(e.what()); }
    return std::string("accepted");
  };
  RmsNormBwdArgs rms{.x = a, .weight = w, .dy = a, .dx = a, .dweight = w, .eps = 0};
  EXPECT_EQ(message([&] { plan_rms_norm_bwd(rms); }), "accepted");
  rms.accumulate = true;
  EXPECT_EQ(message([&] { plan_rms_norm_bwd(rms); }),
            "rms_norm_bwd: dx: expected memory other than dy's, got the same");
  rms.dx = b, rms.dweight = bad;
  EXPECT_EQ(message([&] { plan_rms_norm_bwd(rms); }), "rms_norm_bwd: dweight: expected [8] f32, got [9] f32");
  EXPECT_EQ(message([&] { plan_l2_norm_bwd({.x = h, .dy = h, .dx = h, .eps = -1}); }),
            "l2_norm_bwd: eps: expected 0 or more, got -1");
  GatedNormBwdArgs gated{.x = h, .gate = h, .weight = hw, .dy = k, .dx = k, .dgate = h, .dweight = hw, .eps = 0};
  EXPECT_EQ(message([&] { plan_gated_norm_bwd(gated); }), "accepted");
  gated.dgate = k;
  EXPECT_EQ(message([&] { plan_gated_norm_bwd(gated); }),
            "gated_norm_bwd: dgate: expected memory other than dy's, got the same");
}

}  // namespace
}  // namespace linnet::ops
