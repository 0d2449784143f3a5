// Gradients of routing and combining: the definitions against central differences, the variants against the definitions.
#include "ops/moe/moe_bwd.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/gradient.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;
using test::Point;

// Experts chosen by the forward, so that they are what a model would see.
struct RouterBwdCase {
  OwnedTensor logits, bias, experts, dweights, dlogits;
  RouterBwdArgs args;

  RouterBwdCase(int64_t N, int64_t E, int64_t K, double spread = 1.5)
      : logits(OwnedTensor::normal({N, E}, 1, spread)),
        bias(OwnedTensor::normal({E}, 2, 0.2)),
        experts(OwnedTensor::zeros({N, K}, DType::i32)),
        dweights(OwnedTensor::normal({N, K}, 3)),
        dlogits(OwnedTensor::normal({N, E}, 4)),
        args{.logits = logits,
             .bias = bias,
             .experts = experts,
             .dweights = dweights,
             .dlogits = dlogits,
             .scaling = 2.446f} {
    const OwnedTensor weights = OwnedTensor::zeros({N, K});
    router_ref({.logits = logits, .bias = bias, .experts = experts, .weights = weights});
  }
};

template <class F>
void for_each_setting(RouterBwdArgs& args, F f) {
  for (RouterScore score : {RouterScore::sigmoid, RouterScore::softmax})
    for (bool renormalize : {false, true})
      for (bool biased : {false, true}) {
        SCOPED_TRACE(cat("softmax=", score == RouterScore::softmax, " renormalize=", renormalize, " biased=", biased));
        args.score = score, args.renormalize = renormalize, args.biased_weights = biased;
        f();
      }
}

// sum dw w in double, the choice held fixed.
double router_loss(const RouterBwdArgs& a, const std::vector<double>& logits) {
  const size_t E = static_cast<size_t>(a.logits[1]), K = static_cast<size_t>(a.experts[1]);
  double loss = 0;
  for (size_t n = 0; n < static_cast<size_t>(a.logits[0]); ++n) {
    const double* row = logits.data() + n * E;
    double exp_sum = 0, sum = 1e-20, product = 0;
    for (size_t e = 0; e < E; ++e) exp_sum += std::exp(row[e]);
    for (size_t k = 0; k < K; ++k) {
      const size_t e = static_cast<size_t>(a.experts.as<int32_t>()[n * K + k]);
      const double score = a.score == RouterScore::sigmoid ? 1 / (1 + std::exp(-row[e])) : std::exp(row[e]) / exp_sum;
      const double value = score + (a.biased_weights ? a.bias.as<float>()[e] : 0);
      sum += value, product += a.dweights.as<float>()[n * K + k] * value;
    }
    loss += a.scaling * product / (a.renormalize ? sum : 1);
  }
  return loss;
}

TEST(RouterBwd, ReferenceIsTheSlopeOfItsForward) {
  RouterBwdCase c(6, 11, 3);
  for_each_setting(c.args, [&] {
    router_ref_bwd(c.args);
    EXPECT_TRUE(test::gradient_close({{"logits", c.logits, c.dlogits}},
                                     [&](const Point& p) { return router_loss(c.args, p[0]); }));
  });
}

// ds_i = factor (dw_i - mean): a score's error of 5e-7 in both, then s (1 - s) or p. The sizes that enter bound the error: scores
// below 1, factor = scaling / S with S above 0.5 here (K sigmoids; for softmax p / S <= 1), |dw| < 5.
constexpr test::Tolerance kTolerance{.abs = 4e-6, .rel = 3e-6, .row_rel = 3e-6, .why = "scores to 5e-7, 8 roundings"};

TEST(RouterBwd, MatchesReference) {
  for (const auto& [E, K] : {std::pair{1, 1}, std::pair{5, 5}, std::pair{17, 3}, std::pair{64, 6}, std::pair{256, 8}})
    for (int64_t N : {0, 1, 130}) {
      SCOPED_TRACE(cat("N=", N, " E=", E, " K=", K));
      RouterBwdCase c(N, E, K);
      const OwnedTensor want = OwnedTensor::zeros({N, E});
      for_each_setting(c.args, [&] {
        c.args.dlogits = c.dlogits;
        test::run_plan(plan_router_bwd(c.args), c.args);
        c.args.dlogits = want;
        router_ref_bwd(c.args);
        EXPECT_TRUE(test::close(c.dlogits, want, kTolerance));
        if (c.args.score == RouterScore::sigmoid) {  // what was not chosen has no gradient at all
          for (int64_t i = 0; i < want.view().elements(); ++i)
            EXPECT_TRUE(want.f32()[i] != 0 || c.dlogits.f32()[i] == 0) << i;
        }
      });
      c.args.bias = {};
      c.args.dlogits = c.dlogits, c.args.score = RouterScore::sigmoid, c.args.biased_weights = true;
      test::run_plan(plan_router_bwd(c.args), c.args);
      c.args.dlogits = want;
      router_ref_bwd(c.args);
      EXPECT_TRUE(test::close(c.dlogits, want, kTolerance)) << "no bias";
    }
}

TEST(RouterBwd, SaturatedScoresStayFinite) {  // logits up to about +-150
  RouterBwdCase c(50, 12, 4, 50);
  const OwnedTensor want = OwnedTensor::zeros({50, 12});
  for_each_setting(c.args, [&] {
    if (c.args.biased_weights) return;  // a sum with negative biases may vanish
    c.args.dlogits = c.dlogits;
    test::run_plan(plan_router_bwd(c.args), c.args);
    c.args.dlogits = want;
    router_ref_bwd(c.args);
    EXPECT_TRUE(test::close(c.dlogits, want, kTolerance));
    for (int64_t i = 0; i < 50 * 12; ++i) EXPECT_TRUE(std::isfinite(c.dlogits.f32()[i])) << i;
  });
}

TEST(RouterBwd, ANaNStaysVisibleInItsToken) {
  RouterBwdCase c(4, 9, 3);
  c.logits.f32()[2 * 9 + c.experts.i32()[2 * 3 + 1]] = std::numeric_limits<float>::quiet_NaN();
  const OwnedTensor want = OwnedTensor::zeros({4, 9});
  for_each_setting(c.args, [&] {
    c.args.dlogits = c.dlogits;
    test::run_plan(plan_router_bwd(c.args), c.args);
    c.args.dlogits = want;
    router_ref_bwd(c.args);
    EXPECT_TRUE(test::close(c.dlogits, want, kTolerance));
    EXPECT_TRUE(std::isnan(c.dlogits.f32()[2 * 9 + c.experts.i32()[2 * 3 + 1]]));
  });
}

TEST(RouterBwd, BitsDoNotDependOnThreads) {
  RouterBwdCase c(3000, 20, 4);
  const OwnedTensor other = OwnedTensor::zeros({3000, 20});
  for (RouterScore score : {RouterScore::sigmoid, RouterScore::softmax}) {
    RouterBwdArgs one = c.args, three = c.args;
    one.score = three.score = score, three.dlogits = other;
    test::run_plan(plan_router_bwd(one), one, 1);
    test::run_plan(plan_router_bwd(three), three, 3);
    EXPECT_TRUE(test::same_bits(c.dlogits, other));
  }
}

struct CombineBwdCase {
  OwnedTensor x, position, weights, dy, dx, dweights;
  CombineBwdArgs args;

  CombineBwdCase(int64_t N, int64_t K, int64_t C)
      : x(OwnedTensor::normal({N * K, C}, 1)),
        position(OwnedTensor::filled(  // a permutation: 7 shares no factor with the sizes below
            {N, K}, [&](int64_t i) { return static_cast<double>((i * 7 + 3) % (N * K)); }, DType::i32)),
        weights(OwnedTensor::normal({N, K}, 2)),
        dy(OwnedTensor::normal({N, C}, 3)),
        dx(OwnedTensor::normal({N * K, C}, 4)),
        dweights(OwnedTensor::normal({N, K}, 5)),
        args{.x = x, .position = position, .weights = weights, .dy = dy, .dx = dx, .dweights = dweights} {}
};

TEST(CombineBwd, ReferenceIsTheSlopeOfItsForward) {
  const int64_t N = 5, K = 3, C = 4;
  const CombineBwdCase c(N, K, C);
  combine_ref_bwd(c.args);
  EXPECT_TRUE(test::gradient_close({{"x", c.x, c.dx}, {"weights", c.weights, c.dweights}}, [&](const Point& p) {
    double loss = 0;
    for (int64_t pair = 0; pair < N * K; ++pair)
      for (int64_t i = 0; i < C; ++i)
        loss += c.dy.f32()[pair / K * C + i] * p[1][static_cast<size_t>(pair)] *
                p[0][static_cast<size_t>(c.position.i32()[pair] * C + i)];
    return loss;
  }));
}

TEST(CombineBwd, MatchesReference) {
  for (int64_t K : {1, 2, 8})
    for (int64_t C : {1, 3, 8, 15, 16, 33, 64, 300, 2304})
      for (int64_t N : {0, 1, 40}) {
        SCOPED_TRACE(cat("N=", N, " K=", K, " C=", C));
        CombineBwdCase c(N, K, C);
        const OwnedTensor wide = OwnedTensor::normal({N, C + 4}, 6), dx = c.dx, dweights = c.dweights;
        c.args.dy = wide.view().columns(1, C + 1);
        test::run_plan(plan_combine_bwd(c.args), c.args);
        c.args.dx = dx, c.args.dweights = dweights;
        combine_ref_bwd(c.args);
        EXPECT_TRUE(test::same_bits(c.dx, dx));  // one product, rounded once
        // C products of N(0, 1) in 2 accumulators of 4 lanes or more: C / 8 + 8 roundings of sums below 5 sqrt(C).
        const double width = static_cast<double>(C), roundings = width / 8 + 8;
        EXPECT_TRUE(
            test::close(c.dweights, dweights,
                        {.abs = roundings * 6e-8 * 5 * std::sqrt(width), .rel = 1e-6, .why = "C/8 + 8 roundings"}));
      }
}

TEST(CombineBwd, InPlaceAndThreadsGiveTheSameBits) {
  const CombineBwdCase apart(300, 2, 97), over(300, 2, 97);
  CombineBwdArgs in_place = over.args;
  in_place.dx = over.x;
  test::run_plan(plan_combine_bwd(apart.args), apart.args, 1);
  test::run_plan(plan_combine_bwd(in_place), in_place, 3);
  EXPECT_TRUE(test::same_bits(over.x, apart.dx));
  EXPECT_TRUE(test::same_bits(over.dweights, apart.dweights));
}

TEST(MoeBwd, NamesWhatIsWrong) {
  RouterBwdCase r(2, 12, 4);
  CombineBwdCase c(3, 2, 5);
  const auto message = [](auto plan) {
    try {
      plan();
    } catch (const InvalidArgument& e) { return std::string(e.what()); }
    return std::string("accepted");
  };
  const OwnedTensor wide = OwnedTensor::zeros({2, 13}, DType::i32);
  EXPECT_EQ(message([&] { plan_router_bwd(r.args); }), "accepted");
  EXPECT_EQ(message([&] { plan_combine_bwd(c.args); }), "accepted");
  r.args.dlogits = r.dweights;
  EXPECT_EQ(message([&] { plan_router_bwd(r.args); }), "moe_router_bwd: dlogits: expected [2, 12] f32, got [2, 4] f32");
  r.args.experts = wide;
  EXPECT_EQ(message([&] { plan_router_bwd(r.args); }), "moe_router_bwd: experts: expected 1 to 12 a token, got 13");
  c.args.dx = c.dy;
  EXPECT_EQ(message([&] { plan_combine_bwd(c.args); }), "moe_combine_bwd: dx: expected [6, 5] f32, got [3, 5] f32");
}

}  // namespace
}  // namespace linnet::ops
