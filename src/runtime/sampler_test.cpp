#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "core/errors.h"

namespace linnet::runtime {
namespace {

// Draws n tokens from the same logits and counts them.
std::map<int32_t, int> counts(SamplingParams params, const std::vector<float>& logits, int n) {
  Sampler sampler(std::move(params), static_cast<int64_t>(logits.size()), static_cast<int64_t>(logits.size()));
  std::map<int32_t, int> out;
  for (int i = 0; i < n; ++i) {
    std::vector<float> copy = logits;
    ++out[sampler.sample(copy)];
  }
  return out;
}

TEST(sampler, greedy_takes_the_largest_and_the_lowest_id_on_a_tie) {
  EXPECT_EQ(counts({.temperature = 0}, {1, 3, 2, 3}, 5), (std::map<int32_t, int>{{1, 5}}));
}

TEST(sampler, frequencies_follow_the_softmax) {
  const std::vector<float> logits = {0, 1, 2, -1};
  for (float temperature : {0.7f, 1.f, 2.f}) {
    constexpr int n = 20000;
    const auto got = counts({.temperature = temperature, .seed = 3}, logits, n);
    double total = 0;
    for (float l : logits) total += std::exp(l / temperature);
    for (int32_t id = 0; id < 4; ++id) {
      const double p = std::exp(logits[static_cast<size_t>(id)] / temperature) / total;
      EXPECT_NEAR(got.count(id) ? got.at(id) : 0, n * p, 5 * std::sqrt(n * p * (1 - p)))
          << "5 standard deviations; token " << id;
    }
  }
}

TEST(sampler, truncations_keep_what_they_promise) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  const auto kept = [&](SamplingParams p) { return counts(std::move(p), logits, 3000).size(); };
  EXPECT_EQ(kept({}), 4u);
  EXPECT_EQ(kept({.top_k = 2}), 2u);
  EXPECT_EQ(kept({.top_k = 9}), 4u);
  EXPECT_EQ(kept({.top_p = 0.49f}), 1u);
  EXPECT_EQ(kept({.top_p = 0.7f}), 2u);
  EXPECT_EQ(kept({.top_p = 0.9f}), 3u);
  EXPECT_EQ(kept({.min_p = 0.25f}), 3u);  // 0.15 / 0.5 = 0.3 stays, 0.1 goes
  EXPECT_EQ(kept({.top_k = 3, .top_p = 0.5f}), 1u);
}

TEST(sampler, same_seed_same_tokens) {
  const std::vector<float> logits(100, 0.f);
  const auto run = [&](uint64_t seed) {
    Sampler sampler({.seed = seed}, 100, 100);
    std::vector<int32_t> out;
    for (int i = 0; i < 20; ++i) {
      std::vector<float> copy = logits;
      out.push_back(sampler.sample(copy));
    }
    return out;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

TEST(sampler, penalties_and_bias) {
  const auto best = [](SamplingParams params, std::vector<float> logits, std::vector<int32_t> seen) {
    params.temperature = 0;
    Sampler sampler(std::move(params), static_cast<int64_t>(logits.size()), static_cast<int64_t>(logits.size()));
    for (int32_t id : seen) sampler.observe(id);
    return sampler.sample(logits);
  };
  EXPECT_EQ(best({.repetition_penalty = 2}, {3, 2}, {0}), 1);
  EXPECT_EQ(best({.repetition_penalty = 2}, {-1, -1.5f}, {0}), 1);  // negative logits are pushed down, not up
  EXPECT_EQ(best({.presence_penalty = 2}, {3, 2}, {0}), 1);
  EXPECT_EQ(best({.frequency_penalty = 0.6f}, {3, 2}, {0}), 0);
  EXPECT_EQ(best({.frequency_penalty = 0.6f}, {3, 2}, {0, 0}), 1);
  EXPECT_EQ(best({.presence_penalty = 2, .penalty_window = 1}, {3, 2}, {0, 1}), 0);  // 0 has left the window
  EXPECT_EQ(best({.logit_bias = {{1, 5.f}}}, {3, 2}, {}), 1);
  EXPECT_EQ(best({.logit_bias = {{0, -INFINITY}}}, {3, 2}, {}), 1);
}

TEST(sampler, never_chooses_ids_without_text) {
  Sampler sampler({.temperature = 0}, 4, 2);
  std::vector<float> logits = {0, 1, 9, 9};
  EXPECT_EQ(sampler.sample(logits), 1);
}

TEST(sampler, infinite_logits_are_certain) {
  EXPECT_EQ(counts({}, {0, INFINITY, 5}, 50), (std::map<int32_t, int>{{1, 50}}));
}

TEST(sampler, refuses_what_makes_no_sense) {
  EXPECT_THROW(Sampler({.temperature = -1}, 4, 4), InvalidArgument);
  EXPECT_THROW(Sampler({.temperature = NAN}, 4, 4), InvalidArgument);
  EXPECT_THROW(Sampler({.top_k = -1}, 4, 4), InvalidArgument);
  EXPECT_THROW(Sampler({.top_p = 0}, 4, 4), InvalidArgument);
  EXPECT_THROW(Sampler({.min_p = 2}, 4, 4), InvalidArgument);
  EXPECT_THROW(Sampler({.repetition_penalty = 0}, 4, 4), InvalidArgument);
  EXPECT_THROW(Sampler({.logit_bias = {{4, 1.f}}}, 4, 4), InvalidArgument);
  Sampler forbidden({.logit_bias = {{0, -INFINITY}}}, 1, 1);
  std::vector<float> one = {1};
  EXPECT_THROW(forbidden.sample(one), InvalidArgument);
  Sampler any({}, 2, 2);
  std::vector<float> bad = {1, NAN};
  EXPECT_THROW(any.sample(bad), InternalError);
}

}  // namespace
}  // namespace linnet::runtime
