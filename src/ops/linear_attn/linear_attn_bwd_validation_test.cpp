// What the recurrent core's gradient refuses, and in which words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ops/linear_attn/linear_attn_bwd_case.h"

namespace linnet::linear_attn_test {
namespace {

using ops::Decay;
using ops::LinearAttnBwdArgs;
using testing::HasSubstr;

// Plans good arguments (5 tokens in sequences of 2 and 3, 4 value heads, 2 key heads, 8 and 6 channels) after `spoil`.
std::string refusal_of(const std::function<void(LinearAttnBwdArgs&)>& spoil, Decay decay = Decay::per_channel) {
  const BwdCase c({.lengths = {2, 3}, .H = 4, .Hk = 2, .Dk = 8, .Dv = 6, .decay = decay});
  const Gradients g = c.blank();
  BwdCase::Pointers pointers;
  LinearAttnBwdArgs a = c.args(g, pointers);
  spoil(a);
  try {
    ops::plan_linear_attn_bwd(a);
  } catch (const InvalidArgument& e) { return e.what(); }
  return "accepted";
}

TEST(linear_attn_bwd_validation, good_arguments_pass) {
  for (Decay decay : {Decay::none, Decay::per_head, Decay::per_token, Decay::per_channel})
    EXPECT_EQ(refusal_of([](LinearAttnBwdArgs&) {}, decay), "accepted");
  EXPECT_EQ(refusal_of([](LinearAttnBwdArgs& a) { a.beta = {}; }), "accepted");
  EXPECT_EQ(refusal_of([](LinearAttnBwdArgs& a) { a.state = nullptr, a.dstate = nullptr; }), "accepted");
  EXPECT_EQ(refusal_of([](LinearAttnBwdArgs& a) { a.dlog_decay = a.dbeta = {}; }), "accepted");
}

TEST(linear_attn_bwd_validation, shapes_and_types_are_named) {
  const auto expect = [](const std::function<void(LinearAttnBwdArgs&)>& spoil, const char* text,
                         Decay decay = Decay::per_channel) { EXPECT_THAT(refusal_of(spoil, decay), HasSubstr(text)); };
  expect([](LinearAttnBwdArgs& a) { a.q = {}; }, "linear_attn_bwd: q: expected [-1, -1, -1] f32, got absent");
  expect([](LinearAttnBwdArgs& a) { a.k.shape[2] = 7; }, "k: expected [5, 2, 8] f32, got [5, 2, 7] f32");
  expect([](LinearAttnBwdArgs& a) { a.q.shape[2] = a.k.shape[2] = 0; }, "q: expected at least one head and one");
  expect([](LinearAttnBwdArgs& a) { a.v.shape[1] = 3; }, "v: expected a multiple of the 2 key heads, got 3 value");
  expect([](LinearAttnBwdArgs& a) { a.v.shape[2] = 0; }, "v: expected at least one head and one channel");
  expect([](LinearAttnBwdArgs& a) { a.log_decay = {}; }, "log_decay: expected [5, 4, 8] f32, got absent");
  expect([](LinearAttnBwdArgs& a) { a.beta.shape[1] = 2; }, "beta: expected [5, 4] f32, got [5, 2] f32");
  expect([](LinearAttnBwdArgs& a) { a.dout = {}; }, "dout: expected [5, 4, 6] f32, got absent");
  expect([](LinearAttnBwdArgs& a) { a.dq.shape[1] = 4; }, "dq: expected [5, 2, 8] f32, got [5, 4, 8] f32");
  expect([](LinearAttnBwdArgs& a) { a.dk.dtype = DType::bf16; }, "dk: expected [5, 2, 8] f32, got [5, 2, 8] bf16");
  expect([](LinearAttnBwdArgs& a) { a.dv = {}; }, "dv: expected [5, 4, 6] f32, got absent");
  expect([](LinearAttnBwdArgs& a) { a.dlog_decay.shape[2] = 1; }, "dlog_decay: expected [5, 4, 8] f32");
  expect([](LinearAttnBwdArgs& a) { a.dlog_decay.shape[0] = 1; }, "dlog_decay: expected [4] f32", Decay::per_head);
  expect([](LinearAttnBwdArgs& a) { a.dlog_decay = a.dbeta; }, "dlog_decay: expected absent", Decay::none);
  expect([](LinearAttnBwdArgs& a) { a.dbeta.shape[1] = 2; }, "dbeta: expected [5, 4] f32, got [5, 2] f32");
}

TEST(linear_attn_bwd_validation, sequences_are_checked) {
  const auto with = [](const std::vector<int32_t>& start) {
    const OwnedTensor t = OwnedTensor::ints(start);
    return refusal_of([&](LinearAttnBwdArgs& a) { a.seq_start = t; });
  };
  EXPECT_EQ(with({0, 0, 5}), "accepted");
  EXPECT_THAT(with({}), HasSubstr("seq_start: expected [B + 1] i32, got [0] i32"));
  EXPECT_THAT(with({1, 2, 5}), HasSubstr("seq_start[0]: expected 0, got 1"));
  EXPECT_THAT(with({0, 6, 5}), HasSubstr("seq_start[2]: expected at least seq_start[1] = 6, got 5"));
  EXPECT_THAT(with({0, 2, 4}), HasSubstr("seq_start[2]: expected N = 5, got 4"));
}

}  // namespace
}  // namespace linnet::linear_attn_test
