// The recurrent core against its definition: settings, lengths, widths, gates, keys, strides.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/linear_attn/linear_attn_case.h"

namespace linnet::linear_attn_test {
namespace {

using ops::Decay;

const std::vector<int> kLengths = {0,  1,  2,  3,  7,  8,   9, 15,  16,  17,  31,  32, 33,
                                   63, 64, 65, 72, 73, 127, 0, 128, 129, 136, 137, 200};

void expect_as_defined(const CaseSpec& spec) {
  const Case c(spec);
  expect_close(run_variant(c), run_reference(c), c);
}

// Every setting, every length at once as one ragged batch with empty sequences.
TEST(linear_attn, equals_the_definition_for_every_setting_and_length) {
  for (Decay decay : kDecays)
    for (bool delta : {false, true})
      for (Gate gate : {Gate::mixed, Gate::weak})
        expect_as_defined({.lengths = kLengths, .Dk = 20, .Dv = 12, .decay = decay, .delta = delta, .gate = gate});
}

TEST(linear_attn, equals_the_definition_for_every_width) {
  constexpr int64_t kWidths[][2] = {{1, 1},    {1, 3},    {3, 16},   {16, 3},   {24, 40},
                                    {128, 24}, {24, 128}, {130, 16}, {16, 130}, {128, 128}};
  for (const auto& [Dk, Dv] : kWidths)
    for (Decay decay : {Decay::per_token, Decay::per_channel})
      expect_as_defined({.lengths = {70, 0, 33, 5}, .Dk = Dk, .Dv = Dv, .decay = decay, .gate = Gate::softplus});
}

TEST(linear_attn, equals_the_definition_for_every_gate) {
  for (Decay decay : {Decay::per_head, Decay::per_token, Decay::per_channel})
    for (Gate gate : kGates)
      for (bool delta : {false, true})
        expect_as_defined({.lengths = {150, 20, 8}, .decay = decay, .delta = delta, .gate = gate});
}

TEST(linear_attn, equals_the_definition_for_hard_keys_and_write_strengths) {
  for (Decay decay : {Decay::none, Decay::per_token, Decay::per_channel})
    for (Keys keys : {Keys::random, Keys::identical, Keys::some_zero})
      for (Beta beta : {Beta::random, Beta::absent, Beta::zero, Beta::one})
        expect_as_defined({.lengths = {130, 6}, .decay = decay, .gate = Gate::weak, .keys = keys, .beta = beta});
}

// Roundings of 16,384 tokens, 256 chunks: what a chunk loses must not add up faster than the tolerance's square root.
TEST(linear_attn, stays_accurate_over_long_sequences) {
  for (Decay decay : {Decay::none, Decay::per_token, Decay::per_channel})
    for (Gate gate : {Gate::weak, Gate::softplus})
      expect_as_defined({.lengths = {16384},
                         .H = 1,
                         .Dk = 16,
                         .Dv = 4,
                         .decay = decay,
                         .gate = decay == Decay::none ? Gate::zero : gate});
}

TEST(linear_attn, value_heads_share_key_heads) {
  for (int64_t Hk : {1, 2, 3, 6})
    expect_as_defined({.lengths = {70, 3}, .H = 6, .Hk = Hk, .Dk = 16, .Dv = 16, .gate = Gate::softplus});
}

TEST(linear_attn, rows_may_be_strided) {
  for (Decay decay : kDecays)
    expect_as_defined({.lengths = {70, 0, 3}, .H = 4, .Hk = 2, .decay = decay, .strided = true});
}

TEST(linear_attn, states_of_empty_sequences_are_untouched_and_may_be_null) {
  const Case c({.lengths = {0, 5, 0, 70, 0}});
  const Result r = run_variant(c);
  for (size_t b : {0, 2, 4}) EXPECT_TRUE(test::same_bits(r.states[b], c.initial[b]));
  for (size_t b : {1, 3}) EXPECT_FALSE(test::same_bits(r.states[b], c.initial[b]));

  Result without = run_variant(c);
  without.states = c.initial;
  Case::Pointers pointers;
  ops::LinearAttnArgs a = c.args(without.out, without.states, pointers);
  for (size_t b : {0, 2, 4}) pointers.states[b] = nullptr;
  test::run_plan(ops::plan_linear_attn(a), a);
  expect_same_bits(without, r);
}

TEST(linear_attn, a_nan_decay_is_not_taken_for_an_erased_channel) {
  for (int tokens : {4, 20})
    for (Decay decay : {Decay::per_token, Decay::per_channel}) {
      const Case c({.lengths = {tokens}, .H = 1, .decay = decay});
      c.log_decay.view().row<float>(2)[0] = std::nanf("");
      const Result r = run_variant(c);
      for (int64_t n = 0; n < tokens; ++n)
        for (int64_t j = 0; j < c.spec.Dv; ++j) EXPECT_EQ(std::isnan(r.out.view().row<float>(n)[j]), n >= 2);
    }
}

TEST(linear_attn, nothing_to_do) {
  const Case no_tokens({.lengths = {0, 0}}), no_sequences({.lengths = {}});
  expect_same_bits(run_variant(no_tokens), Result{no_tokens.v, no_tokens.initial});
  run_variant(no_sequences);
}

}  // namespace
}  // namespace linnet::linear_attn_test
