// The gradient's definition against central differences of the recurrence, both in double.
#include <gtest/gtest.h>

#include <cmath>

#include "core/text.h"
#include "ops/linear_attn/linear_attn_bwd_case.h"

namespace linnet::linear_attn_test {
namespace {

using ops::Decay;

// All inputs of a case in double, dense; a point, or a direction to move it in.
struct Inputs {
  std::vector<double> q, k, v, log_decay, beta, state;

  static constexpr int kCount = 6;
  static constexpr const char* kNames[kCount] = {"q", "k", "v", "log_decay", "beta", "state"};
  std::vector<double>& at(int i) {
    std::vector<double>* const members[] = {&q, &k, &v, &log_decay, &beta, &state};
    return *members[i];
  }
};

std::vector<double> dense(const ConstTensor& t) {
  std::vector<double> x;
  for (int64_t n = 0; t && n < t[0]; ++n)
    for (int64_t i = 0; i < t.row_elements(); ++i) x.push_back(t.row<float>(n)[i]);
  return x;
}

void append(std::vector<double>& to, const OwnedTensor& t) {
  for (int64_t i = 0; i < t.view().elements(); ++i) to.push_back(t.f32()[i]);
}

// Loss = sum dout out + sum dS_T S_T, by the recurrence in double.
double loss(const ops::LinearAttnBwdArgs& a, const BwdCase& c, const Inputs& x) {
  const int64_t H = a.v[1], Hk = a.k[1], Dk = a.k[2], Dv = a.v[2];
  const int32_t* start = a.seq_start.as<int32_t>();
  double sum = 0;
  for (int64_t b = 0; b + 1 < a.seq_start[0]; ++b)
    for (int64_t h = 0; h < H; ++h) {
      std::vector<double> s(static_cast<size_t>(Dk * Dv));
      if (c.with_states) std::copy_n(x.state.begin() + (b * H + h) * Dk * Dv, Dk * Dv, s.begin());
      for (int64_t n = start[b]; n < start[b + 1]; ++n) {
        const double* q = &x.q[(n * Hk + h / (H / Hk)) * Dk];
        const double* k = &x.k[(n * Hk + h / (H / Hk)) * Dk];
        for (int64_t d = 0; d < Dk; ++d) {
          double g = 0;
          if (a.decay == Decay::per_head) g = x.log_decay[h];
          if (a.decay == Decay::per_token) g = x.log_decay[n * H + h];
          if (a.decay == Decay::per_channel) g = x.log_decay[(n * H + h) * Dk + d];
          for (int64_t j = 0; j < Dv; ++j) s[d * Dv + j] *= std::exp(g);
        }
        for (int64_t j = 0; j < Dv; ++j) {
          double u = x.v[(n * H + h) * Dv + j];
          for (int64_t d = 0; d < Dk; ++d) u -= a.delta ? s[d * Dv + j] * k[d] : 0;
          if (a.beta) u *= x.beta[n * H + h];
          double out = 0;
          for (int64_t d = 0; d < Dk; ++d) s[d * Dv + j] += k[d] * u, out += s[d * Dv + j] * q[d];
          sum += a.scale * out * a.dout.row<float>(n)[h * Dv + j];
        }
      }
      for (int64_t i = 0; c.with_states && i < Dk * Dv; ++i) sum += s[i] * c.finals[b].f32()[h * Dk * Dv + i];
    }
  return sum;
}

void expect_central_differences(const CaseSpec& spec, bool with_states = true) {
  BwdCase c(spec);
  c.with_states = with_states;
  Gradients got = run_reference(c);
  BwdCase::Pointers pointers;
  const ops::LinearAttnBwdArgs a = c.args(got, pointers);
  Inputs at{dense(a.q), dense(a.k), dense(a.v), dense(a.log_decay), dense(a.beta), {}};
  Inputs gradient{dense(a.dq), dense(a.dk), dense(a.dv), dense(a.dlog_decay), dense(a.beta ? a.dbeta : Tensor()), {}};
  for (const OwnedTensor& s : c.forward.initial) append(at.state, s);
  for (const OwnedTensor& s : got.dstates) append(gradient.state, s);
  if (!with_states) at.state.clear();
  for (int input = 0; input < Inputs::kCount; ++input)
    for (uint64_t trial = 0; trial < 2; ++trial) {
      const Rng rng(spec.seed, trial * Inputs::kCount + static_cast<uint64_t>(input));
      double analytic = 0, terms = 0;
      ASSERT_EQ(at.at(input).size(), gradient.at(input).size()) << Inputs::kNames[input];
      Inputs plus = at, minus = at;
      constexpr double kStep = 1e-5;
      for (size_t i = 0; i < at.at(input).size(); ++i) {
        const double direction = rng.normal(i), term = gradient.at(input)[i] * direction;
        analytic += term, terms += std::abs(term);
        plus.at(input)[i] += kStep * direction, minus.at(input)[i] -= kStep * direction;
      }
      const double numeric = (loss(a, c, plus) - loss(a, c, minus)) / (2 * kStep);
      // Gradients are stored in f32: 2^-24 of each. Differences: rounding 2^-53 |Loss| / step ~ 1e-10 |Loss|, truncation
      // step^2 / 6 ~ 2e-11 times a third derivative that is of the order of the terms.
      EXPECT_NEAR(analytic, numeric, 0x1p-24 * terms + 1e-9 * (terms + std::abs(loss(a, c, at))))
          << Inputs::kNames[input] << ", trial " << trial << " of " << text_of(spec);
    }
}

TEST(linear_attn_ref_bwd, equals_central_differences_for_every_setting) {
  for (Decay decay : {Decay::none, Decay::per_head, Decay::per_token, Decay::per_channel})
    for (bool delta : {false, true})
      for (bool with_states : {false, true})
        expect_central_differences({.lengths = {5, 1, 0, 17},
                                    .H = 2,
                                    .Hk = 2,
                                    .Dk = 8,
                                    .Dv = 5,
                                    .decay = decay,
                                    .delta = delta,
                                    .gate = Gate::softplus,
                                    .strided = with_states},
                                   with_states);
}

TEST(linear_attn_ref_bwd, equals_central_differences_for_shared_key_heads_and_hard_cases) {
  for (Beta beta : {Beta::absent, Beta::zero, Beta::one})
    expect_central_differences(
        {.lengths = {9, 4}, .H = 4, .Hk = 2, .Dk = 3, .Dv = 6, .gate = Gate::mixed, .beta = beta});
  for (Gate gate : {Gate::zero, Gate::weak, Gate::strong, Gate::cliff})
    expect_central_differences({.lengths = {12}, .H = 3, .Hk = 1, .Dk = 6, .Dv = 4, .gate = gate, .seed = 2});
}

TEST(linear_attn_ref_bwd, an_erased_channel_has_no_gradient) {
  const BwdCase c({.lengths = {30}, .gate = Gate::minus_inf});
  const Gradients g = run_reference(c);
  const float *decay = c.forward.log_decay.f32(), *got = g.dlog_decay.f32();
  for (int64_t i = 0; i < c.forward.log_decay.view().elements(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i]));
    ASSERT_TRUE(got[i] == 0 || !std::isinf(decay[i]));
  }
}

}  // namespace
}  // namespace linnet::linear_attn_test
