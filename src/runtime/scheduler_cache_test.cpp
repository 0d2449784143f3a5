// What a scheduler remembers: how much of a prompt need not be read again, and that nobody can tell from the answer.
#include <gtest/gtest.h>

#include <thread>

#include "core/text.h"
#include "runtime/scheduler_test_support.h"

namespace linnet::runtime {
namespace {

struct SchedulerCache : testing::Test {
  static const TinyModel& model() {
    static const TinyModel model;
    return model;
  }
  std::unique_ptr<Engine> engine = model().engine(), other = model().engine();
  Scheduler scheduler{*engine, *model().tokenizer, {.state_bytes = 64 << 20}},
      forgetful{*other, *model().tokenizer, {.state_bytes = 64 << 20, .prefix_cache = false}};

  // The answer, which must be the one of a scheduler without a cache.
  Answer ask(const Request& request) {
    const Answer answer = answer_of(scheduler, request);
    expect_same(answer, answer_of(forgetful, request), cat("prompt of ", request.prompt.size()));
    return answer;
  }
  void settle() { runtime::settle(scheduler); }
};

TEST_F(SchedulerCache, the_same_prompt_again_reads_its_last_tokens_only) {
  for (int64_t length : {1, 64, 65, 128, 129, 130, 500}) {
    Request request = a_request(length, 3, static_cast<uint64_t>(length));
    request.top_logprobs = 2;
    EXPECT_EQ(ask(request).usage.cached_tokens, 0) << length;
    EXPECT_EQ(ask(request).usage.cached_tokens, (length - 1) / 64 * 64) << length;
    request.prompt.back() ^= 1;
    EXPECT_EQ(ask(request).usage.cached_tokens, (length - 1) / 64 * 64) << length;
  }
}

TEST_F(SchedulerCache, a_long_conversation_reads_its_new_tokens_only) {
  std::vector<int32_t> said;
  int64_t hits = 0, misses = 0, saved = 0;
  for (uint64_t turn = 0; turn < 30; ++turn) {
    const std::vector<int32_t> more = random_prompt(static_cast<int64_t>(5 + turn * 7 % 60), turn);
    const auto known = static_cast<int64_t>(said.size());
    said.insert(said.end(), more.begin(), more.end());
    Request request = a_request(1, 10 + static_cast<int64_t>(turn), turn);
    request.prompt = said, request.top_logprobs = 0;
    settle();
    const Answer answer = ask(request);
    EXPECT_EQ(answer.usage.cached_tokens, known / 64 * 64) << "turn " << turn;
    saved += answer.usage.cached_tokens;
    if (said.size() > 64) ++(known >= 64 ? hits : misses);
    for (int32_t id : answer.choices[0].ids()) said.push_back(id);
  }
  settle();
  const SchedulerStats stats = scheduler.stats();
  EXPECT_GT(stats.tokens_settled, 0);
  EXPECT_EQ(stats.cache_hits, hits);  // of requests: settling looks, too
  EXPECT_EQ(stats.cache_misses, misses);
  EXPECT_EQ(stats.cache_tokens, saved);
}

// Another turn from the middle, and one that goes on from each of several choices.
TEST_F(SchedulerCache, conversations_fork) {
  Request request = a_request(100, 80);
  request.n = 2;
  const Answer answer = ask(request);
  settle();
  for (const Answer::Choice& choice : answer.choices) {
    Request next = a_request(10, 5, 7);
    next.prompt = request.prompt;
    for (int32_t id : choice.ids()) next.prompt.push_back(id);
    next.prompt.push_back(3);
    EXPECT_EQ(ask(next).usage.cached_tokens, 128);
    next.prompt[70] ^= 1;  // the first turn said otherwise
    EXPECT_EQ(ask(next).usage.cached_tokens, 64);
  }
}

// Prompts that share a beginning which no state was kept for: the second one to come keeps it for all others.
TEST_F(SchedulerCache, where_prompts_part_a_state_is_kept) {
  for (uint64_t i = 0; i < 4; ++i) {
    Request request = a_request(200, 2, 11);
    const std::vector<int32_t> own = random_prompt(300, 100 + i);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    EXPECT_EQ(ask(request).usage.cached_tokens, i < 2 ? 0 : 192) << "prompt " << i;
  }
}

TEST_F(SchedulerCache, scores_of_a_prompt_need_all_of_it) {
  Request request = a_request(200, 2);
  request.score_prompt = true, request.top_logprobs = 1;
  EXPECT_EQ(ask(request).usage.cached_tokens, 0);
  EXPECT_EQ(ask(request).usage.cached_tokens, 0);
  request.score_prompt = false;
  EXPECT_EQ(ask(request).usage.cached_tokens, 192);
}

}  // namespace
}  // namespace linnet::runtime
