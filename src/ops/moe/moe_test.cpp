// Routing against its definition: ties, groups, both scores, both weights, NaN; the counting sort; the weighted sum.
#include "ops/moe/moe.h"

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

// sigmoid or softmax 5e-7 (softmax sums E positive terms in double), the sum of K weights and two products: K + 3
// roundings.
constexpr test::Tolerance kWeights{.rel = 2e-6, .row_rel = 2e-6, .why = "score 5e-7, K + 3 roundings of 6e-8"};

struct RouterCase {
  OwnedTensor logits, bias, experts, weights;
  RouterArgs args;

  RouterCase(int64_t N, int64_t E, int64_t K, uint64_t seed = 1)
      : logits(OwnedTensor::normal({N, E}, seed, 1.5)),
        bias(OwnedTensor::normal({E}, seed + 1, 0.2)),
        experts(OwnedTensor::zeros({N, K}, DType::i32)),
        weights(OwnedTensor::zeros({N, K})),
        args{.logits = logits, .bias = bias, .experts = experts, .weights = weights, .scaling = 2.446f} {}
};

void expect_as_reference(const RouterArgs& args) {
  const int64_t N = args.experts[0], K = args.experts[1];
  const OwnedTensor experts = OwnedTensor::zeros({N, K}, DType::i32), weights = OwnedTensor::zeros({N, K});
  RouterArgs want = args;
  want.experts = experts, want.weights = weights;
  test::run_plan(plan_router(args), args);
  router_ref(want);
  EXPECT_TRUE(test::same_bits(args.experts, experts));
  EXPECT_TRUE(test::close(args.weights, weights, kWeights));
}

TEST(Router, MatchesReference) {
  for (const auto& [E, K] : {std::pair{1, 1}, std::pair{5, 5}, std::pair{17, 3}, std::pair{64, 6}, std::pair{256, 8}})
    for (RouterScore score : {RouterScore::sigmoid, RouterScore::softmax})
      for (bool renormalize : {false, true})
        for (bool biased : {false, true})
          for (int64_t N : {0, 1, 130}) {
            SCOPED_TRACE(cat("N=", N, " E=", E, " K=", K, " softmax=", score == RouterScore::softmax,
                             " renormalize=", renormalize, " biased_weights=", biased));
            RouterCase c(N, E, K);
            if (biased) c.bias = OwnedTensor::uniform({E}, 5, 0, 0.2), c.args.bias = c.bias;  // sums stay away from 0
            c.args.score = score, c.args.renormalize = renormalize, c.args.biased_weights = biased;
            expect_as_reference(c.args);
            c.args.bias = {};
            expect_as_reference(c.args);
          }
}

TEST(Router, Groups) {
  for (const auto& [G, kept] :
       {std::pair{2, 1}, std::pair{4, 2}, std::pair{8, 3}, std::pair{32, 32}, std::pair{32, 7}}) {
    SCOPED_TRACE(cat("groups=", G, " kept=", kept));
    RouterCase c(70, 32, 4);
    c.args.n_groups = G, c.args.topk_groups = kept;
    expect_as_reference(c.args);
  }
}

TEST(Router, TiedGroupsLowerFirst) {
  const OwnedTensor logits = OwnedTensor::zeros({1, 8}), experts = OwnedTensor::zeros({1, 4}, DType::i32);
  const OwnedTensor weights = OwnedTensor::zeros({1, 4});
  const RouterArgs args{.logits = logits, .experts = experts, .weights = weights, .n_groups = 4, .topk_groups = 2};
  test::run_plan(plan_router(args), args);
  for (int32_t k = 0; k < 4; ++k) EXPECT_EQ(experts.i32()[k], k);
}

TEST(Router, SoftmaxOfLargeLogits) {
  const OwnedTensor logits =
      OwnedTensor::filled({2, 3}, [](int64_t i) { return i < 3 ? 500.0 + static_cast<double>(i) : -500.0; });
  const OwnedTensor experts = OwnedTensor::zeros({2, 2}, DType::i32), weights = OwnedTensor::zeros({2, 2});
  expect_as_reference(
      {.logits = logits, .experts = experts, .weights = weights, .renormalize = false, .score = RouterScore::softmax});
}

TEST(Router, ThreadsGiveTheSameBits) {
  RouterCase one(5000, 64, 6), three(5000, 64, 6);
  one.args.n_groups = three.args.n_groups = 8, one.args.topk_groups = three.args.topk_groups = 4;
  test::run_plan(plan_router(one.args), one.args, 1);
  test::run_plan(plan_router(three.args), three.args, 3);
  EXPECT_TRUE(test::same_bits(one.experts, three.experts));
  EXPECT_TRUE(test::same_bits(one.weights, three.weights));
}

TEST(Router, ClearedGroupsCompeteWithZero) {  // choices of the kept group lie below 0: the cleared group's zeros win
  const OwnedTensor logits = OwnedTensor::zeros({1, 4}),
                    bias = OwnedTensor::filled({4}, [](int64_t e) { return e < 2 ? -2 : -3; });
  const OwnedTensor experts = OwnedTensor::zeros({1, 2}, DType::i32), weights = OwnedTensor::zeros({1, 2});
  const RouterArgs args{.logits = logits, .bias = bias, .experts = experts, .weights = weights, .n_groups = 2};
  test::run_plan(plan_router(args), args);
  EXPECT_EQ(experts.i32()[0], 2);
  EXPECT_EQ(experts.i32()[1], 3);
  EXPECT_FLOAT_EQ(weights.f32()[0], 0.5f);  // the unbiased scores, renormalised
}

TEST(Router, TiesGoToTheLowerIndex) {
  for (int64_t K : {1, 2, 3, 8}) {
    const int64_t E = 19;
    const OwnedTensor logits = OwnedTensor::filled({3, E}, [&](int64_t i) {
      if (i < E) return 0.25;                              // all equal
      if (i < 2 * E) return (i - E) % 3 == 1 ? 1.0 : 0.0;  // two values
      return (i - 2 * E) == 11 ? 2.0 : 40.0;               // saturated: sigmoid is exactly 1 for all but one
    });
    const OwnedTensor experts = OwnedTensor::zeros({3, K}, DType::i32), weights = OwnedTensor::zeros({3, K});
    const RouterArgs args{.logits = logits, .experts = experts, .weights = weights};
    test::run_plan(plan_router(args), args);
    for (int32_t k = 0; k < K; ++k) {
      EXPECT_EQ(experts.i32()[k], k);
      EXPECT_EQ(experts.i32()[K + k], k < 6 ? 1 + 3 * k : (k - 6) / 2 * 3 + (k - 6) % 2 * 2);
      EXPECT_EQ(experts.i32()[2 * K + k], k);
      EXPECT_FLOAT_EQ(weights.f32()[k], 1.0f / static_cast<float>(K));
    }
  }
}

TEST(Router, BiasEntersTheChoiceOnly) {
  const OwnedTensor logits = OwnedTensor::filled({1, 3}, [](int64_t e) { return e == 0 ? 2 : 0; });
  const OwnedTensor bias = OwnedTensor::filled({3}, [](int64_t e) { return e == 2 ? 10 : 0; });
  const OwnedTensor experts = OwnedTensor::zeros({1, 1}, DType::i32), weights = OwnedTensor::zeros({1, 1});
  RouterArgs args{.logits = logits, .bias = bias, .experts = experts, .weights = weights, .renormalize = false};
  test::run_plan(plan_router(args), args);
  EXPECT_EQ(experts.i32()[0], 2);
  EXPECT_FLOAT_EQ(weights.f32()[0], 0.5f);
  args.biased_weights = true;
  test::run_plan(plan_router(args), args);
  EXPECT_FLOAT_EQ(weights.f32()[0], 10.5f);
}

TEST(Router, ANaNStaysVisibleAndInRange) {
  RouterCase c(5, 20, 3);
  c.logits.f32()[2 * 20 + 13] = std::numeric_limits<float>::quiet_NaN();
  for (RouterScore score : {RouterScore::sigmoid, RouterScore::softmax}) {
    c.args.score = score;
    expect_as_reference(c.args);
    for (int32_t k = 0; k < 3; ++k) {
      EXPECT_EQ(c.experts.i32()[2 * 3 + k], k);
      EXPECT_TRUE(std::isnan(c.weights.f32()[2 * 3 + k]));
      EXPECT_FALSE(std::isnan(c.weights.f32()[3 + k]));
    }
  }
}

TEST(Router, NamesWhatIsWrong) {
  RouterCase c(2, 12, 4);
  const auto message = [&](auto change) {
    RouterArgs args = c.args;
    change(args);
    try {
      plan_router(args);
    } catch (const InvalidArgument& e) { return std::string(e.what()); }
    return std::string("accepted");
  };
  const OwnedTensor wide = OwnedTensor::zeros({2, 13}, DType::i32);
  EXPECT_EQ(message([](RouterArgs&) {}), "accepted");
  EXPECT_EQ(message([&](RouterArgs& a) { a.experts = wide; }), "moe_router: experts: expected 1 to 12 a token, got 13");
  EXPECT_EQ(message([](RouterArgs& a) { a.n_groups = 5; }),
            "moe_router: n_groups: expected a divisor of 12 experts, got 5");
  EXPECT_EQ(message([](RouterArgs& a) { a.topk_groups = 2; }), "moe_router: topk_groups: expected 1 to 1, got 2");
  EXPECT_EQ(message([&](RouterArgs& a) { a.bias = c.weights; }), "moe_router: bias: expected [12] f32, got [2, 4] f32");
}

void dispatch(const DispatchArgs& args, int n_threads = 3) {
  ThreadPool pool(n_threads);
  Workspace workspace(moe_dispatch_bytes(args.experts[0], args.expert_start[0] - 1));
  moe_dispatch(args, Exec{pool, workspace});
}

TEST(Dispatch, SortsPairsByExpertTokensAscending) {
  for (int64_t N : {0, 1, 7, 200, 511, 512, 513, 3000}) {
    const int64_t E = 11, K = 3;
    SCOPED_TRACE(cat("N=", N));
    const Rng rng(3);
    const OwnedTensor experts = OwnedTensor::filled(
        {N, K}, [&](int64_t i) { return static_cast<double>(rng.bits(static_cast<uint64_t>(i)) % 10); },
        DType::i32);  // expert 10 idle
    const OwnedTensor start = OwnedTensor::filled(
        {E + 1}, [](int64_t) { return -5; }, DType::i32);
    const OwnedTensor token = OwnedTensor::zeros({N * K}, DType::i32),
                      position = OwnedTensor::zeros({N, K}, DType::i32);
    dispatch({.experts = experts, .expert_start = start, .token = token, .position = position});
    EXPECT_EQ(start.i32()[0], 0);
    EXPECT_EQ(start.i32()[E], N * K);
    std::vector<int> seen(static_cast<size_t>(N * K));
    for (int64_t i = 0; i < N * K; ++i) {
      const int32_t at = position.i32()[i], e = experts.i32()[i];
      ASSERT_GE(at, start.i32()[e]);
      ASSERT_LT(at, start.i32()[e + 1]);
      EXPECT_EQ(token.i32()[at], i / K);
      ++seen[static_cast<size_t>(at)];
    }
    for (int count : seen) EXPECT_EQ(count, 1);
    for (int64_t e = 0; e < E; ++e)
      for (int32_t i = start.i32()[e] + 1; i < start.i32()[e + 1]; ++i) EXPECT_LE(token.i32()[i - 1], token.i32()[i]);
  }
}

// K products and sums of values below about 20: K + 1 roundings of partial sums.
constexpr test::Tolerance kSums{.abs = 2e-5, .rel = 0, .row_rel = 1e-6, .why = "K + 1 roundings of sums below 20"};

TEST(Combine, MatchesReference) {
  for (int64_t K : {1, 2, 8})
    for (int64_t C : {1, 15, 16, 33, 300})
      for (int64_t N : {0, 1, 40})
        for (bool accumulate : {false, true}) {
          SCOPED_TRACE(cat("N=", N, " K=", K, " C=", C, " accumulate=", accumulate));
          const OwnedTensor x = OwnedTensor::normal({N * K, C}, 1), weights = OwnedTensor::normal({N, K}, 2);
          const OwnedTensor position = OwnedTensor::filled(
              {N, K}, [&](int64_t i) { return static_cast<double>((i * 7 + 3) % (N * K)); }, DType::i32);
          const OwnedTensor wide = OwnedTensor::normal({N, C + 4}, 3), want = OwnedTensor::zeros({N, C});
          Tensor y = wide.view();
          y.shape[1] = C;
          for (int64_t n = 0; n < N; ++n) std::copy_n(y.row<float>(n), C, want.view().row<float>(n));
          CombineArgs args{.x = x, .position = position, .weights = weights, .y = y, .accumulate = accumulate};
          test::run_plan(plan_combine(args), args);
          args.y = want;
          combine_ref(args);
          EXPECT_TRUE(test::close(y, want, kSums));
        }
}

TEST(Combine, DispatchThenCombineReturnsEachTokensOwnRows) {
  const int64_t N = 60, K = 4, E = 16, C = 20;
  RouterCase c(N, E, K);
  test::run_plan(plan_router(c.args), c.args);
  const OwnedTensor start = OwnedTensor::zeros({E + 1}, DType::i32), token = OwnedTensor::zeros({N * K}, DType::i32);
  const OwnedTensor position = OwnedTensor::zeros({N, K}, DType::i32);
  dispatch({.experts = c.experts, .expert_start = start, .token = token, .position = position});
  // Expert e answers token n with (n + 1) * 2^-e in every channel.
  const OwnedTensor x = OwnedTensor::zeros({N * K, C}), y = OwnedTensor::zeros({N, C});
  for (int64_t e = 0; e < E; ++e)
    for (int32_t i = start.i32()[e]; i < start.i32()[e + 1]; ++i)
      std::fill_n(x.f32() + i * C, C, std::ldexp(static_cast<float>(token.i32()[i] + 1), -static_cast<int>(e)));
  const CombineArgs args{.x = x, .position = position, .weights = c.weights, .y = y};
  test::run_plan(plan_combine(args), args, 3);
  for (int64_t n = 0; n < N; ++n) {
    double want = 0;
    for (int64_t k = 0; k < K; ++k)
      want += c.weights.f32()[n * K + k] * std::ldexp(static_cast<double>(n + 1), -c.experts.i32()[n * K + k]);
    EXPECT_NEAR(y.f32()[n * C + C - 1], want, 1e-6 * want);
  }
}

TEST(Combine, NamesWhatIsWrong) {
  const OwnedTensor x = OwnedTensor::zeros({5, 3}), position = OwnedTensor::zeros({3, 2}, DType::i32);
  const OwnedTensor weights = OwnedTensor::zeros({3, 2}), y = OwnedTensor::zeros({3, 3});
  try {
    plan_combine({.x = x, .position = position, .weights = weights, .y = y});
    FAIL() << "accepted 5 rows for 3 tokens of 2 experts";
  } catch (const InvalidArgument& e) { EXPECT_STREQ(e.what(), "moe_combine: x: expected [6, -1] f32, got [5, 3] f32"); }
}

}  // namespace
}  // namespace linnet::ops
