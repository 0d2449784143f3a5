// The decay gate against its definition: both kinds, the whole range of its argument, shapes, strides, in place,
// refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "ops/decay_gate/decay_gate.h"
#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

constexpr double kUlp = 0x1p-23;
constexpr DecayGateKind kKinds[] = {DecayGateKind::softplus, DecayGateKind::lower_bound};

// softplus: exp, log1p, one sum, one product and the rate's rounding, 2 ulp at most each where they matter.
constexpr test::Tolerance kSoftplus{
    .abs = 1e-43, .rel = 6 * kUlp, .why = "6 roundings of 1 ulp; abs: one subnormal step (2^-149) times a rate of e^4"};

void run(const DecayGateArgs& a, int n_threads = 2) { test::run_plan(plan_decay_gate(a), a, n_threads); }

// z over [-110, 110] and the edges of f32, four heads with rates from e^-2 to e^4 and biases of either sign.
struct Sweep {
  OwnedTensor z, a_log, dt_bias, got, want;
  DecayGateArgs args;

  explicit Sweep(DecayGateKind kind) {
    constexpr int64_t kTokens = 500, kHeads = 4, kChannels = 11;
    const Rng rng(3);
    const float edges[] = {0.0f, -0.0f, 1e-45f, -1e-45f, 1e-38f, 3e38f, -3e38f, 1e10f, -1e10f, 88.7f, -88.7f, -103.9f};
    z = OwnedTensor::filled({kTokens, kHeads, kChannels}, [&](int64_t i) -> double {
      if (i / kChannels % 10 == 7) return edges[i % std::size(edges)];
      const double spread = i % 3 == 0 ? 110 : i % 3 == 1 ? 10 : 0.1;
      return spread * (2 * rng.uniform(static_cast<uint64_t>(i)) - 1);
    });
    a_log = OwnedTensor::filled({kHeads}, [](int64_t h) { return -2 + 2 * h; });
    dt_bias = OwnedTensor::filled({kHeads, kChannels}, [](int64_t i) { return i % 4 == 0 ? 0 : 0.7 * (i % 11) - 4.1; });
    got = want = OwnedTensor::zeros({kTokens, kHeads, kChannels});
    args = {.z = z, .a_log = a_log, .dt_bias = dt_bias, .log_decay = got, .kind = kind, .lower_bound = -5};
  }
  void define() {
    DecayGateArgs reference = args;
    reference.log_decay = want;
    decay_gate_ref(reference);
  }
};

TEST(decay_gate, softplus_equals_the_definition_everywhere) {
  Sweep s(DecayGateKind::softplus);
  for (bool bias : {true, false}) {
    if (!bias) s.args.dt_bias = {};
    run(s.args), s.define();
    EXPECT_TRUE(test::close(s.got, s.want, kSoftplus));
  }
}

TEST(decay_gate, lower_bound_equals_the_definition_everywhere) {
  Sweep s(DecayGateKind::lower_bound);
  run(s.args), s.define();
  // y = rate (z + bias) carries three roundings; the gate answers an error of dy with a relative error of dy (1 -
  // sigmoid(y)) <= dy.
  for (int64_t i = 0; i < s.got.view().elements(); ++i) {
    const int64_t h = i / 11 % 4;
    const double y = std::exp(double{s.a_log.f32()[h]}) * (double{s.z.f32()[i]} + s.dt_bias.f32()[i % 44]);
    const double got = s.got.f32()[i], want = s.want.f32()[i], rel = (4 + 1.5 * std::min(std::abs(y), 110.0)) * kUlp;
    ASSERT_NEAR(got, want, rel * std::abs(want) + 1e-44) << i << ": z " << s.z.f32()[i] << " y " << y;
    ASSERT_LE(got, 0);
    ASSERT_GE(got, -5);
  }
}

// log(1 + exp(x)) with the sum rounded to f32 is 0 below -17; it must be exp(x).
TEST(decay_gate, softplus_keeps_what_underflows_beside_one) {
  const OwnedTensor z = OwnedTensor::filled({1, 1, 3}, [](int64_t i) { return -20.0 - 30.0 * i; });
  const OwnedTensor a_log = OwnedTensor::zeros({1}), g = OwnedTensor::zeros({1, 1, 3});
  run({.z = z, .a_log = a_log, .log_decay = g});
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(g.f32()[i] / -std::exp(-20.0 - 30.0 * i), 1, 3 * kUlp);
}

TEST(decay_gate, reaches_any_decay) {
  const OwnedTensor z = OwnedTensor::filled({1, 1, 2}, [](int64_t i) { return i == 0 ? 200 : 3e38; });
  const OwnedTensor a_log = OwnedTensor::filled({1}, [](int64_t) { return std::log(16.0); });
  const OwnedTensor g = OwnedTensor::zeros({1, 1, 2});
  run({.z = z, .a_log = a_log, .log_decay = g});
  EXPECT_NEAR(g.f32()[0], -3200, 1e-3);
  EXPECT_EQ(g.f32()[1], -std::numeric_limits<float>::infinity());
}

TEST(decay_gate, shapes_strides_and_in_place) {
  for (DecayGateKind kind : kKinds)
    for (const auto& [N, H, D] :
         {std::array<int64_t, 3>{0, 3, 4}, {1, 1, 1}, {5, 7, 1}, {3, 2, 16}, {2, 3, 33}, {700, 4, 20}})
      for (int64_t gap : {0, 3}) {
        const OwnedTensor memory = OwnedTensor::normal({N, H * D + gap}, 5, 4);
        Tensor z = memory.view();
        z.rank = 3, z.shape[1] = H, z.shape[2] = D;
        const OwnedTensor a_log = OwnedTensor::normal({H}, 6), bias = OwnedTensor::normal({H, D}, 7);
        const OwnedTensor got = OwnedTensor::zeros({N, H, D}), want = OwnedTensor::zeros({N, H, D});
        DecayGateArgs a{.z = z, .a_log = a_log, .dt_bias = bias, .log_decay = want, .kind = kind, .lower_bound = -3};
        decay_gate_ref(a);
        a.log_decay = got;
        run(a, 3);
        const test::Tolerance tolerance{
            .abs = 1e-44, .rel = 200 * kUlp, .why = "|y| < 130 in the lower-bound gate's tail"};
        EXPECT_TRUE(test::close(got, want, tolerance)) << N << " " << H << " " << D << " gap " << gap;
        const OwnedTensor before = memory;
        a.log_decay = z;
        run(a, 3);
        EXPECT_TRUE(test::same_bits(z, got)) << "in place";
        for (int64_t n = 0; n < N; ++n)
          for (int64_t i = H * D; i < H * D + gap; ++i)
            EXPECT_EQ(memory.view().row<float>(n)[i], before.view().row<float>(n)[i]) << "between the rows";
      }
}

TEST(decay_gate, a_nan_stays_a_nan) {
  for (DecayGateKind kind : kKinds) {
    const OwnedTensor z = OwnedTensor::filled({1, 1, 20}, [](int64_t i) { return i == 17 ? std::nan("") : 1; });
    const OwnedTensor a_log = OwnedTensor::zeros({1}), g = OwnedTensor::zeros({1, 1, 20});
    run({.z = z, .a_log = a_log, .log_decay = g, .kind = kind, .lower_bound = -5});
    for (int i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(g.f32()[i]), i == 17);
  }
}

TEST(decay_gate, refuses_in_words) {
  const OwnedTensor z = OwnedTensor::zeros({3, 2, 4}), a_log = OwnedTensor::zeros({2}),
                    bias = OwnedTensor::zeros({2, 4});
  const auto refusal_of = [&](const std::function<void(DecayGateArgs&)>& spoil) -> std::string {
    DecayGateArgs a{.z = z, .a_log = a_log, .dt_bias = bias, .log_decay = z};
    spoil(a);
    try {
      plan_decay_gate(a);
    } catch (const InvalidArgument& e) { return e.what(); }
    return "accepted";
  };
  using testing::HasSubstr;
  EXPECT_EQ(refusal_of([](DecayGateArgs&) {}), "accepted");
  EXPECT_THAT(refusal_of([](DecayGateArgs& a) { a.z = {}; }), HasSubstr("decay_gate: z: expected [-1, -1, -1] f32"));
  EXPECT_THAT(refusal_of([](DecayGateArgs& a) { a.a_log.shape[0] = 1; }),
              HasSubstr("a_log: expected [2] f32, got [1]"));
  EXPECT_THAT(refusal_of([](DecayGateArgs& a) { a.dt_bias.shape[1] = 3; }), HasSubstr("dt_bias: expected [2, 4] f32"));
  EXPECT_THAT(refusal_of([](DecayGateArgs& a) { a.log_decay.dtype = DType::bf16; }), HasSubstr("log_decay: expected"));
  for (float bound : {0.0f, -5.5f, 1.0f, std::nanf("")})
    EXPECT_THAT(refusal_of([&](DecayGateArgs& a) { a.kind = DecayGateKind::lower_bound, a.lower_bound = bound; }),
                HasSubstr("lower_bound: expected a value in [-5, 0), got"));
}

}  // namespace
}  // namespace linnet::ops
