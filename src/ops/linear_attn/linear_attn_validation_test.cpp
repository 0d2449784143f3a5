// What the recurrent core refuses, and in which words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ops/linear_attn/linear_attn_case.h"

namespace linnet::linear_attn_test {
namespace {

using ops::Decay;
using ops::LinearAttnArgs;
using testing::HasSubstr;

// Plans good arguments (5 tokens in sequences of 2 and 3, 4 value heads, 2 key heads, 8 and 6 channels) after `spoil`.
std::string refusal_of(const std::function<void(LinearAttnArgs&)>& spoil, Decay decay = Decay::per_channel) {
  const Case c({.lengths = {2, 3}, .H = 4, .Hk = 2, .Dk = 8, .Dv = 6, .decay = decay});
  const OwnedTensor out = OwnedTensor::zeros({5, 24});
  Case::Pointers pointers;
  LinearAttnArgs a = c.args(out, c.initial, pointers);
  spoil(a);
  try {
    ops::plan_linear_attn(a);
  } catch (const InvalidArgument& e) { return e.what(); }
  return "accepted";
}

TEST(linear_attn_validation, good_arguments_pass) {
  for (Decay decay : {Decay::none, Decay::per_head, Decay::per_token, Decay::per_channel})
    EXPECT_EQ(refusal_of([](LinearAttnArgs&) {}, decay), "accepted");
  EXPECT_EQ(refusal_of([](LinearAttnArgs& a) { a.beta = {}; }), "accepted");
}

TEST(linear_attn_validation, shapes_and_types_are_named) {
  const auto expect = [](const std::function<void(LinearAttnArgs&)>& spoil, const char* text,
                         Decay decay = Decay::per_channel) { EXPECT_THAT(refusal_of(spoil, decay), HasSubstr(text)); };
  expect([](LinearAttnArgs& a) { a.q = {}; }, "linear_attn: q: expected [-1, -1, -1] f32, got absent");
  expect([](LinearAttnArgs& a) { a.q.dtype = DType::bf16; }, "q: expected [-1, -1, -1] f32, got [5, 2, 8] bf16");
  expect([](LinearAttnArgs& a) { a.k.shape[2] = 7; }, "k: expected [5, 2, 8] f32, got [5, 2, 7] f32");
  expect([](LinearAttnArgs& a) { a.k.shape[0] = 4; }, "k: expected [5, 2, 8] f32, got [4, 2, 8] f32");
  expect([](LinearAttnArgs& a) { a.q.shape[2] = a.k.shape[2] = 0; }, "q: expected at least one head and one channel");
  expect([](LinearAttnArgs& a) { a.v.shape[1] = 0; }, "v: expected at least one head and one channel");
  expect([](LinearAttnArgs& a) { a.v.shape[1] = 3; }, "v: expected a multiple of the 2 key heads, got 3 value heads");
  expect([](LinearAttnArgs& a) { a.log_decay = {}; }, "log_decay: expected [5, 4, 8] f32, got absent");
  expect([](LinearAttnArgs& a) { a.decay = Decay::per_token; }, "log_decay: expected [5, 4] f32, got [5, 4, 8] f32");
  expect([](LinearAttnArgs& a) { a.decay = Decay::none; }, "log_decay: expected absent, got [5, 4, 8] f32");
  expect([](LinearAttnArgs& a) { a.log_decay.shape[0] = 3; }, "log_decay: expected [4] f32", Decay::per_head);
  expect([](LinearAttnArgs& a) { a.beta.shape[1] = 2; }, "beta: expected [5, 4] f32, got [5, 2] f32");
  expect([](LinearAttnArgs& a) { a.out.shape[2] = 8; }, "out: expected [5, 4, 6] f32, got [5, 4, 8] f32");
}

TEST(linear_attn_validation, sequences_are_checked) {
  const auto with = [](const std::vector<int32_t>& start) {
    const OwnedTensor t = OwnedTensor::ints(start);
    return refusal_of([&](LinearAttnArgs& a) { a.seq_start = t; });
  };
  EXPECT_EQ(with({0, 0, 5}), "accepted");
  EXPECT_THAT(with({}), HasSubstr("seq_start: expected [B + 1] i32, got [0] i32"));
  EXPECT_THAT(with({1, 2, 5}), HasSubstr("seq_start[0]: expected 0, got 1"));
  EXPECT_THAT(with({0, 6, 5}), HasSubstr("seq_start[2]: expected at least seq_start[1] = 6, got 5"));
  EXPECT_THAT(with({0, 2, 4}), HasSubstr("seq_start[2]: expected N = 5, got 4"));
  float* states[] = {nullptr, nullptr};
  EXPECT_THAT(refusal_of([&](LinearAttnArgs& a) { a.state = states; }),
              HasSubstr("state[0]: expected memory for a sequence of 2 tokens, got null"));
  EXPECT_THAT(refusal_of([&](LinearAttnArgs& a) { a.state = nullptr; }), HasSubstr("state[0]: expected memory"));
}

}  // namespace
}  // namespace linnet::linear_attn_test
