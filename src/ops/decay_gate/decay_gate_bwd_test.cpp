// The decay gate's gradient: the definition against central differences, the variant against the definition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "ops/decay_gate/decay_gate_bwd.h"
#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

constexpr double kUlp = 0x1p-23;
constexpr DecayGateKind kKinds[] = {DecayGateKind::softplus, DecayGateKind::lower_bound};

// Inputs of a shape and memory for the gradients; da_log and ddt_bias hold `before` first.
struct Problem {
  OwnedTensor z, a_log, dt_bias, dg, dz, da_log, ddt_bias;
  DecayGateBwdArgs args;

  static constexpr double kBefore = 0.25;

  Problem(int64_t N, int64_t H, int64_t D, DecayGateKind kind, double spread = 4) {
    z = OwnedTensor::normal({N, H, D}, 1, spread), dg = OwnedTensor::normal({N, H, D}, 2);
    a_log = OwnedTensor::normal({H}, 3), dt_bias = OwnedTensor::normal({H, D}, 4);
    args = {.z = z, .a_log = a_log, .dt_bias = dt_bias, .dlog_decay = dg, .kind = kind, .lower_bound = -4};
    reset();
  }
  void reset() {
    const int64_t N = args.z[0], H = args.z[1], D = args.z[2];
    const auto before = [](int64_t) { return kBefore; };
    dz = OwnedTensor::zeros({N, H, D});
    da_log = OwnedTensor::filled({H}, before), ddt_bias = OwnedTensor::filled({H, D}, before);
    args.dz = dz, args.da_log = da_log, args.ddt_bias = args.dt_bias ? ddt_bias.view() : Tensor();
  }
};

struct Gradients {
  OwnedTensor dz, da_log, ddt_bias;
};
Gradients by_definition(Problem& p) {
  p.reset();
  decay_gate_ref_bwd(p.args);
  return {p.dz, p.da_log, p.ddt_bias};
}
Gradients by_variant(Problem& p, int n_threads = 2) {
  p.reset();
  test::run_plan(plan_decay_gate_bwd(p.args), p.args, n_threads);
  return {p.dz, p.da_log, p.ddt_bias};
}

// sum dg g for A_log moved by step * a, dt_bias by step * b, z by step * c, in double.
double loss(const Problem& p, double step, const Rng& direction, int moved) {
  const int64_t H = p.args.z[1], D = p.args.z[2];
  double sum = 0;
  for (int64_t i = 0; i < p.z.view().elements(); ++i) {
    const int64_t h = i / D % H, channel = i % (H * D);
    const auto move = [&](int which, int64_t at) {
      return moved == which ? step * direction.normal(static_cast<uint64_t>(at)) : 0;
    };
    const double x = p.z.f32()[i] + move(0, i) + p.dt_bias.f32()[channel] + move(2, channel);
    const double rate = std::exp(p.a_log.f32()[h] + move(1, h));
    const double g = p.args.kind == DecayGateKind::softplus
                         ? -rate * (std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))))
                         : p.args.lower_bound / (1 + std::exp(-rate * x));
    sum += g * p.dg.f32()[i];
  }
  return sum;
}

TEST(decay_gate_bwd, the_definition_equals_central_differences) {
  for (DecayGateKind kind : kKinds) {
    Problem p(11, 3, 5, kind, 2);
    const Gradients g = by_definition(p);
    const OwnedTensor* const parts[] = {&g.dz, &g.da_log, &g.ddt_bias};
    for (int moved = 0; moved < 3; ++moved)
      for (uint64_t trial = 0; trial < 3; ++trial) {
        const Rng direction(7, trial);
        double analytic = 0, terms = 0;
        for (int64_t i = 0; i < parts[moved]->view().elements(); ++i) {
          const double value = parts[moved]->f32()[i] - (moved > 0 ? Problem::kBefore : 0);
          const double term = value * direction.normal(static_cast<uint64_t>(i));
          analytic += term, terms += std::abs(term);
        }
        constexpr double kStep = 1e-5;
        const double numeric = (loss(p, kStep, direction, moved) - loss(p, -kStep, direction, moved)) / (2 * kStep);
        // f32 storage 2^-24 of each term (and of 0.25 before); truncation step^2 / 6 and rounding 2^-53 / step ~ 1e-10.
        EXPECT_NEAR(analytic, numeric, 0x1p-23 * terms + 1e-6 + 1e-9 * terms) << "input " << moved;
      }
  }
}

// dz: a handful of roundings; the slope of the lower-bound gate answers y's roundings with up to |y| ulp.
void expect_as_defined(Problem& p, const char* what, int n_threads = 2) {
  const Gradients want = by_definition(p), got = by_variant(p, n_threads);
  const int64_t H = p.args.z[1], D = p.args.z[2];
  std::vector<double> dz_terms(static_cast<size_t>(H * D)), da_terms(static_cast<size_t>(H));
  for (int64_t i = 0; i < want.dz.view().elements(); ++i) {
    const int64_t channel = i % (H * D), h = channel / D, n = i / (H * D);
    const double x = double{p.args.z.row<float>(n)[channel]} + (p.args.dt_bias ? p.dt_bias.f32()[channel] : 0.0);
    const double rate = std::exp(double{p.a_log.f32()[h]}), w = want.dz.f32()[i];
    const double y = p.args.kind == DecayGateKind::softplus ? 0 : std::min(std::abs(rate * x), 110.0);
    ASSERT_NEAR(got.dz.f32()[i], w, (8 + 1.5 * y) * kUlp * std::abs(w) + 1e-42) << what << " " << i << " x " << x;
    dz_terms[channel] += (8 + 1.5 * y) * std::abs(w);
    const double softplus = std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
    da_terms[h] += p.args.kind == DecayGateKind::softplus
                       ? 8 * std::abs(p.args.dlog_decay.row<float>(n)[channel] * rate * softplus)
                       : (8 + 1.5 * y) * std::abs(w * x);
  }
  // Sums in f32 over blocks of 64 tokens: up to 64 roundings of the terms, typically 8; then of 0.25 and the sum.
  for (int64_t h = 0; h < H; ++h) EXPECT_NEAR(got.da_log.f32()[h], want.da_log.f32()[h], 2 * kUlp * (da_terms[h] + 1));
  for (int64_t i = 0; i < H * D; ++i)
    EXPECT_NEAR(got.ddt_bias.f32()[i], want.ddt_bias.f32()[i], 2 * kUlp * (dz_terms[i] + 1)) << what;
}

TEST(decay_gate_bwd, equals_the_definition_for_every_shape) {
  for (DecayGateKind kind : kKinds)
    for (const auto& [N, H, D] :
         {std::array<int64_t, 3>{0, 3, 4}, {1, 1, 1}, {5, 7, 1}, {63, 2, 16}, {64, 3, 33}, {65, 3, 20}, {300, 4, 5}})
      for (bool bias : {true, false}) {
        Problem p(N, H, D, kind);
        if (!bias) p.args.dt_bias = {};
        expect_as_defined(p, "shape", 3);
      }
}

TEST(decay_gate_bwd, equals_the_definition_over_the_whole_range) {
  for (DecayGateKind kind : kKinds) {
    Problem p(500, 4, 11, kind, 40);
    const float edges[] = {0.0f, -0.0f, 1e-45f, 1e-38f, 1e10f, -1e10f, 88.7f, -88.7f, -103.9f, -120.0f, 1e30f};
    for (int64_t i = 0; i < 500 * 44; i += 7) p.z.f32()[i] = edges[i % std::size(edges)];
    for (int64_t i = 0; i < 500 * 44; ++i)
      if (p.z.f32()[i] > 1e3f) p.dg.f32()[i] = 0;  // sums would see nothing else
    expect_as_defined(p, "range");
  }
}

TEST(decay_gate_bwd, what_underflows_has_no_gradient_however_steep_the_gate) {
  Problem p(6, 1, 4, DecayGateKind::lower_bound, 1);
  p.a_log.f32()[0] = 100;
  const Gradients g = by_variant(p), want = by_definition(p);
  for (int64_t i = 0; i < 24; ++i) {
    EXPECT_EQ(g.dz.f32()[i], 0);
    EXPECT_EQ(want.dz.f32()[i], 0);
  }
  EXPECT_EQ(g.da_log.f32()[0], 0.25f);
}

TEST(decay_gate_bwd, a_gate_beyond_f32_adds_nothing_where_its_gradient_is_zero) {
  Problem p(1, 1, 2, DecayGateKind::softplus);
  for (int i = 0; i < 2; ++i) p.z.f32()[i] = 3e38f, p.dg.f32()[i] = 0;
  p.a_log.f32()[0] = 3;
  EXPECT_EQ(by_variant(p).da_log.f32()[0], 0.25f);
}

TEST(decay_gate_bwd, a_nan_stays_a_nan) {
  for (DecayGateKind kind : kKinds) {
    Problem p(1, 1, 20, kind, 1);
    p.z.f32()[17] = std::nanf("");
    const Gradients g = by_variant(p);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(g.dz.f32()[i]), i == 17);
    EXPECT_TRUE(std::isnan(g.da_log.f32()[0]));
  }
}

TEST(decay_gate_bwd, the_thread_count_changes_nothing) {
  for (DecayGateKind kind : kKinds) {
    Problem p(333, 3, 20, kind);
    const Gradients want = by_variant(p, 1);
    for (int threads : {2, 5}) {
      const Gradients got = by_variant(p, threads);
      EXPECT_TRUE(test::same_bits(got.dz, want.dz));
      EXPECT_TRUE(test::same_bits(got.da_log, want.da_log));
      EXPECT_TRUE(test::same_bits(got.ddt_bias, want.ddt_bias));
    }
  }
}

TEST(decay_gate_bwd, rows_may_be_strided_and_dz_may_be_its_input) {
  for (DecayGateKind kind : kKinds) {
    constexpr int64_t N = 70, H = 2, D = 9, kGap = 3;
    Problem p(N, H, D, kind);
    const Gradients want = by_variant(p);
    const OwnedTensor wide_z = OwnedTensor::normal({N, H * D + kGap}, 9),
                      wide_dg = OwnedTensor::normal({N, H * D + kGap}, 8);
    const auto view = [&](const OwnedTensor& t) {
      Tensor v = t.view();
      v.rank = 3, v.shape[1] = H, v.shape[2] = D;
      return v;
    };
    for (int64_t i = 0; i < N * H * D; ++i) {
      view(wide_z).row<float>(i / (H * D))[i % (H * D)] = p.z.f32()[i];
      view(wide_dg).row<float>(i / (H * D))[i % (H * D)] = p.dg.f32()[i];
    }
    const OwnedTensor before = wide_dg;
    p.reset();
    p.args.z = view(wide_z), p.args.dlog_decay = p.args.dz = view(wide_dg);
    test::run_plan(plan_decay_gate_bwd(p.args), p.args);
    EXPECT_TRUE(test::same_bits(view(wide_dg), want.dz));
    EXPECT_TRUE(test::same_bits(p.da_log, want.da_log));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = H * D; i < H * D + kGap; ++i)
        EXPECT_EQ(wide_dg.view().row<float>(n)[i], before.view().row<float>(n)[i]);
  }
}

TEST(decay_gate_bwd, refuses_in_words) {
  const auto refusal_of = [&](const std::function<void(DecayGateBwdArgs&)>& spoil) -> std::string {
    Problem p(3, 2, 4, DecayGateKind::softplus);
    spoil(p.args);
    try {
      plan_decay_gate_bwd(p.args);
    } catch (const InvalidArgument& e) { return e.what(); }
    return "accepted";
  };
  using testing::HasSubstr;
  EXPECT_EQ(refusal_of([](DecayGateBwdArgs&) {}), "accepted");
  EXPECT_THAT(refusal_of([](DecayGateBwdArgs& a) { a.z = {}; }), HasSubstr("decay_gate_bwd: z: expected [-1, -1, -1]"));
  EXPECT_THAT(refusal_of([](DecayGateBwdArgs& a) { a.dlog_decay.shape[2] = 3; }),
              HasSubstr("dlog_decay: expected [3, 2, 4] f32, got [3, 2, 3] f32"));
  EXPECT_THAT(refusal_of([](DecayGateBwdArgs& a) { a.dz = {}; }), HasSubstr("dz: expected [3, 2, 4] f32, got absent"));
  EXPECT_THAT(refusal_of([](DecayGateBwdArgs& a) { a.da_log.shape[0] = 1; }), HasSubstr("da_log: expected [2] f32"));
  EXPECT_THAT(refusal_of([](DecayGateBwdArgs& a) { a.ddt_bias = {}; }), HasSubstr("ddt_bias: expected [2, 4] f32"));
  EXPECT_THAT(refusal_of([](DecayGateBwdArgs& a) { a.dt_bias = {}; }), HasSubstr("ddt_bias: expected absent"));
  EXPECT_THAT(refusal_of([](DecayGateBwdArgs& a) { a.kind = DecayGateKind::lower_bound, a.lower_bound = 1; }),
              HasSubstr("lower_bound: expected a value in [-5, 0), got 1"));
}

}  // namespace
}  // namespace linnet::ops
