// The recurrent core's gradient against its definition: settings, lengths, widths, gates, keys, strides, bits.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/linear_attn/linear_attn_bwd_case.h"

namespace linnet::linear_attn_test {
namespace {

using ops::Decay;

const std::vector<int> kLengths = {0,  1,  2,  3,  7,  8,  9, 15, 16,  17,  31,  32,  33,
                                   47, 48, 49, 63, 64, 65, 0, 72, 127, 128, 129, 137, 200};

void expect_as_defined(const CaseSpec& spec, bool with_states = true, bool wants_all = true) {
  BwdCase c(spec);
  c.with_states = with_states, c.wants_all = wants_all;
  expect_close(run_variant(c), run_reference(c), c);
}

TEST(linear_attn_bwd, equals_the_definition_for_every_setting_and_length) {
  for (Decay decay : kDecays)
    for (bool delta : {false, true})
      for (bool with_states : {false, true})
        expect_as_defined(
            {.lengths = kLengths, .Dk = 20, .Dv = 12, .decay = decay, .delta = delta, .gate = Gate::softplus},
            with_states);
}

TEST(linear_attn_bwd, equals_the_definition_for_every_width) {
  constexpr int64_t kWidths[][2] = {{1, 1},    {1, 3},    {3, 16},   {16, 3},   {24, 40},  {40, 33},
                                    {128, 24}, {24, 128}, {130, 16}, {16, 130}, {128, 128}};
  for (const auto& [Dk, Dv] : kWidths)
    for (Decay decay : {Decay::per_token, Decay::per_channel})
      expect_as_defined({.lengths = {70, 0, 33, 5}, .Dk = Dk, .Dv = Dv, .decay = decay, .gate = Gate::softplus});
}

TEST(linear_attn_bwd, equals_the_definition_for_every_gate) {
  for (Decay decay : {Decay::per_head, Decay::per_token, Decay::per_channel})
    for (Gate gate : kGates)
      for (bool delta : {false, true})
        expect_as_defined({.lengths = {150, 20, 8}, .decay = decay, .delta = delta, .gate = gate});
}

TEST(linear_attn_bwd, equals_the_definition_for_hard_keys_and_write_strengths) {
  for (Decay decay : {Decay::none, Decay::per_token, Decay::per_channel})
    for (Keys keys : {Keys::random, Keys::identical, Keys::some_zero})
      for (Beta beta : {Beta::random, Beta::absent, Beta::zero, Beta::one})
        expect_as_defined({.lengths = {130, 6}, .decay = decay, .gate = Gate::weak, .keys = keys, .beta = beta});
}

// Three segments and a bit.
TEST(linear_attn_bwd, stays_accurate_over_long_sequences) {
  for (Decay decay : {Decay::none, Decay::per_token, Decay::per_channel})
    for (bool with_states : {false, true})
      expect_as_defined({.lengths = {4200, 2048, 2049},
                         .H = 1,
                         .Dk = 16,
                         .Dv = 4,
                         .decay = decay,
                         .gate = decay == Decay::none ? Gate::zero : Gate::softplus},
                        with_states);
}

TEST(linear_attn_bwd, value_heads_share_key_heads) {
  for (int64_t Hk : {1, 2, 3, 6})
    expect_as_defined({.lengths = {70, 3}, .H = 6, .Hk = Hk, .Dk = 16, .Dv = 16, .gate = Gate::softplus});
}

TEST(linear_attn_bwd, rows_may_be_strided) {
  for (Decay decay : kDecays)
    expect_as_defined({.lengths = {70, 0, 3}, .H = 4, .Hk = 2, .decay = decay, .strided = true});
}

TEST(linear_attn_bwd, gradients_of_decay_and_beta_may_be_left_out) {
  for (Decay decay : kDecays) expect_as_defined({.lengths = {70, 3}, .decay = decay}, true, false);
}

TEST(linear_attn_bwd, some_states_may_be_absent) {
  const BwdCase c({.lengths = {70, 0, 5, 130}, .gate = Gate::softplus});
  const auto without_some = [&](auto&& run) {
    Gradients g = c.blank();
    BwdCase::Pointers pointers;
    ops::LinearAttnBwdArgs a = c.args(g, pointers);
    pointers.forward.states[0] = pointers.forward.states[1] = nullptr;
    pointers.dstates[0] = pointers.dstates[1] = pointers.dstates[2] = nullptr;
    run(a);
    return g;
  };
  const Gradients want = without_some([](const ops::LinearAttnBwdArgs& a) { ops::linear_attn_ref_bwd(a); });
  const Gradients got =
      without_some([](const ops::LinearAttnBwdArgs& a) { test::run_plan(ops::plan_linear_attn_bwd(a), a); });
  expect_close(got, want, c);
  for (size_t b : {0, 1, 2}) EXPECT_TRUE(test::same_bits(got.dstates[b], c.finals[b])) << b;
}

TEST(linear_attn_bwd, an_erased_channel_has_no_gradient) {
  for (Decay decay : {Decay::per_token, Decay::per_channel}) {
    const BwdCase c({.lengths = {150}, .decay = decay, .gate = Gate::minus_inf});
    const Gradients g = run_variant(c);
    const float *log_decay = c.forward.log_decay.f32(), *got = g.dlog_decay.f32();
    for (int64_t i = 0; i < c.forward.log_decay.view().elements(); ++i) {
      ASSERT_TRUE(std::isfinite(got[i]));
      ASSERT_TRUE(got[i] == 0 || !std::isinf(log_decay[i])) << i;
    }
  }
}

// The gradient of a strong gate is small because its decay is: each within a few roundings of its own sums, not only of the
// largest gradient around.
TEST(linear_attn_bwd, gradients_of_strong_gates_keep_their_digits) {
  const BwdCase c({.lengths = {150}, .H = 1, .Dk = 16, .Dv = 16, .gate = Gate::cliff});
  Case& forward = const_cast<BwdCase&>(c).forward;
  for (int64_t i = 0; i < forward.log_decay.view().elements(); ++i)
    if (float& g = forward.log_decay.f32()[i]; g == -200) g = -60;
  const Gradients got = run_variant(c), want = run_reference(c);
  int strong = 0;
  for (int64_t i = 0; i < forward.log_decay.view().elements(); ++i)
    if (forward.log_decay.f32()[i] == -60) {
      EXPECT_NEAR(got.dlog_decay.f32()[i], want.dlog_decay.f32()[i], 1e-4 * 150 * std::exp(-60.0)) << i;
      ++strong;
    }
  EXPECT_GT(strong, 100);
}

TEST(linear_attn_bwd, the_thread_count_and_neighbours_change_nothing) {
  for (const CaseSpec& spec : {CaseSpec{.lengths = {150, 4, 0, 70, 1}, .H = 4, .Hk = 2, .Dk = 24, .Dv = 40},
                               CaseSpec{.lengths = {333}, .H = 1, .Dk = 40, .Dv = 100, .gate = Gate::softplus},
                               CaseSpec{.lengths = {100, 30}, .H = 3, .Dk = 3, .Dv = 5, .decay = Decay::per_head}}) {
    const BwdCase c(spec);
    const Gradients want = run_variant(c, 1);
    for (int threads : {2, 3, 7}) expect_same_bits(run_variant(c, threads), want);
  }
  const BwdCase alone({.lengths = {90}}), packed({.lengths = {90, 40}});
  const Gradients one = run_variant(alone), two = run_variant(packed);
  EXPECT_TRUE(test::same_bits(one.dq, two.dq.view().rows(0, 90)));
  EXPECT_TRUE(test::same_bits(one.dlog_decay, two.dlog_decay.view().rows(0, 90)));
}

TEST(linear_attn_bwd, what_scratch_memory_held_before_does_not_matter) {
  for (Decay decay : kDecays)
    for (bool with_states : {false, true})
      for (int64_t Dk : {3, 20, 40}) {
        BwdCase c({.lengths = {150, 3, 64}, .Dk = Dk, .Dv = 23 - Dk / 2, .decay = decay, .gate = Gate::softplus});
        c.with_states = with_states;
        const Gradients got = c.blank();
        BwdCase::Pointers pointers;
        const ops::LinearAttnBwdArgs a = c.args(got, pointers);
        const auto plan = ops::plan_linear_attn_bwd(a);
        ThreadPool pool(1);
        const size_t bytes = plan.workspace_bytes(a, 1);
        Workspace workspace(bytes);
        {
          Workspace::Scope scope(workspace);
          std::fill_n(workspace.take<float>(static_cast<int64_t>(bytes / 4)), bytes / 4, std::nanf(""));
        }
        plan.run(a, Exec{pool, workspace});
        expect_same_bits(got, run_variant(c, 1));
      }
}

TEST(linear_attn_bwd, nothing_to_do) {
  const BwdCase no_tokens({.lengths = {0, 0}}), no_sequences({.lengths = {}});
  expect_same_bits(run_variant(no_tokens), no_tokens.blank());
  run_variant(no_sequences);
  const BwdCase per_head({.lengths = {0}, .decay = Decay::per_head});
  for (int64_t h = 0; h < 2; ++h) EXPECT_EQ(run_variant(per_head).dlog_decay.f32()[h], 0);
}

}  // namespace
}  // namespace linnet::linear_attn_test
