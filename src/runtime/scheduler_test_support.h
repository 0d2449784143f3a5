// For the tests of the scheduler: a small model with text, requests, and what a client makes of a stream.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "formats/file_test_support.h"
#include "model/synth.h"
#include "runtime/generator.h"
#include "runtime/scheduler.h"

namespace linnet::runtime {

// A random model in a folder of its own, loaded as often as asked for: a scheduler has its engine for itself.
struct TinyModel {
  formats::ScratchFolder folder;
  std::string dir = folder / "model";
  std::optional<formats::Tokenizer> tokenizer;

  explicit TinyModel(DType dtype = DType::f32) {
    model::ModelConfig config = model::read_config(std::string(LINNET_SOURCE_DIR) + "/examples/configs/tiny.json");
    config.dtype = dtype;
    config.initializer_range = 0.1f;  // logits far apart: what is drawn depends on all that was said
    ThreadPool pool(1);
    model::write_synthetic_checkpoint(dir, config, {.seed = 3}, pool, nullptr);
    tokenizer = formats::Tokenizer::load(dir);
  }
  std::unique_ptr<Engine> engine(EngineOptions options = {.threads = 2}) const {
    return std::make_unique<Engine>(dir, options);
  }
};

inline std::vector<int32_t> random_prompt(int64_t length, uint64_t seed) {
  std::vector<int32_t> out;
  Rng rng(seed, 17);
  for (int64_t i = 0; i < length; ++i) out.push_back(static_cast<int32_t>(rng.bits() % 256));
  return out;
}

inline Request a_request(int64_t prompt_tokens, int64_t max_tokens, uint64_t seed = 1) {
  Request request;
  request.prompt = random_prompt(prompt_tokens, seed);
  request.options.sampling.seed = seed;
  request.options.max_tokens = max_tokens;
  return request;
}

// All that a stream said.
struct Answer {
  struct Choice {
    std::string text;
    std::vector<ScoredToken> tokens;  // an end token included
    std::optional<Finish> finish;
    std::vector<int32_t> ids() const {
      std::vector<int32_t> out;
      for (const ScoredToken& t : tokens) out.push_back(t.id);
      return out;
    }
  };
  std::vector<Choice> choices;
  std::vector<ScoredToken> prompt;
  Usage usage;
  std::exception_ptr error;
  bool over = false;
};

// Reads to the end. What breaks the order of events fails the test.
inline Answer answer_of(Stream& stream, int64_t n = 1) {
  using Kind = Event::Kind;
  Answer out;
  out.choices.resize(static_cast<size_t>(n));
  while (std::optional<Event> event = stream.next(std::chrono::hours(1))) {
    EXPECT_FALSE(out.over) << "an event after the last one";
    Answer::Choice& choice = out.choices.at(static_cast<size_t>(event->choice));
    if (event->kind == Kind::prompt_scored) {
      out.prompt = std::move(event->tokens);
    } else if (event->kind == Kind::text || event->kind == Kind::choice_finished) {
      EXPECT_FALSE(choice.finish) << "an event after the choice's end";
      choice.text += event->text;
      choice.tokens.insert(choice.tokens.end(), event->tokens.begin(), event->tokens.end());
      if (event->kind == Kind::choice_finished) choice.finish = event->finish;
    } else {
      out.over = true, out.usage = event->usage, out.error = event->error;
      EXPECT_EQ(event->kind == Kind::failed, out.error != nullptr);
    }
  }
  EXPECT_TRUE(out.over);
  return out;
}

inline Answer answer_of(Scheduler& scheduler, const Request& request) {
  return answer_of(*scheduler.submit(request), request.n);
}

// Equal in every bit of what both were asked for; usage aside.
inline void expect_same(const Answer& got, const Answer& want, const std::string& what) {
  ASSERT_EQ(got.choices.size(), want.choices.size()) << what;
  const auto same_scores = [&](const std::vector<ScoredToken>& a, const std::vector<ScoredToken>& b) {
    ASSERT_EQ(a.size(), b.size()) << what;
    const auto same = [](const TokenScore& x, const TokenScore& y) {
      return x.id == y.id && std::memcmp(&x.logprob, &y.logprob, sizeof x.logprob) == 0;
    };
    for (size_t i = 0; i < a.size(); ++i) {
      ASSERT_TRUE(same(a[i], b[i])) << what << ": token " << i << ": " << a[i].id << " (" << a[i].logprob << "), not "
                                    << b[i].id << " (" << b[i].logprob << ")";
      ASSERT_TRUE(std::equal(a[i].top.begin(), a[i].top.end(), b[i].top.begin(), b[i].top.end(), same))
          << what << ": alternatives of token " << i;
    }
  };
  same_scores(got.prompt, want.prompt);
  for (size_t c = 0; c < got.choices.size(); ++c) {
    same_scores(got.choices[c].tokens, want.choices[c].tokens);
    EXPECT_EQ(got.choices[c].text, want.choices[c].text) << what;
    EXPECT_EQ(got.choices[c].finish, want.choices[c].finish) << what;
  }
}

// Until nothing is left to do for replies that have ended: it takes memory, at the cost of what is remembered.
inline void settle(Scheduler& scheduler) {
  scheduler.with_cache(
      [](PrefixCache&) {});  // the round that ended the last reply is over, and its statistics are known
  while (scheduler.stats().replies_to_settle > 0) std::this_thread::yield();
}

}  // namespace linnet::runtime
