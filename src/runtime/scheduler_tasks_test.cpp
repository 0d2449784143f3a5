// Tasks with the scheduler's prefix cache: they run while it works, and what they throw comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "runtime/scheduler_test_support.h"
#include "runtime/session_store.h"

namespace linnet::runtime {
namespace {

TEST(scheduler_tasks, run_between_passes_and_hand_back_what_they_throw) {
  const TinyModel model;
  const auto engine = model.engine();
  Scheduler scheduler(*engine, *model.tokenizer, {.state_bytes = 64 << 20});
  const auto busy = scheduler.submit(a_request(100, 2000));
  int64_t entries = -1;
  std::thread::id where;
  scheduler.with_cache([&](PrefixCache& cache) {
    entries = cache.stats().entries;
    where = std::this_thread::get_id();
  });
  EXPECT_GE(entries, 0);
  EXPECT_NE(where, std::this_thread::get_id());  // no other thread touches the cache
  EXPECT_EQ(formats::error_of<IoError>([&] { scheduler.with_cache([](PrefixCache&) { throw IoError("disk"); }); }),
            "disk");
  const auto idle_engine = model.engine();
  Scheduler forgetful(*idle_engine, *model.tokenizer, {.state_bytes = 64 << 20, .prefix_cache = false});
  EXPECT_THAT(formats::error_of<InvalidArgument>([&] { forgetful.with_cache([](PrefixCache&) {}); }),
              testing::HasSubstr("no prefix cache"));
}

// While a state is being written to a file, others generate.
TEST(scheduler_tasks, a_lent_state_holds_up_nobody) {
  const TinyModel model;
  const auto engine = model.engine();
  Scheduler scheduler(*engine, *model.tokenizer, {.state_bytes = 64 << 20});
  const Request request = a_request(200, 30);
  const Answer before = answer_of(scheduler, request);
  EXPECT_THROW(scheduler.copy_state(random_prompt(200, 2)), InvalidArgument);
  std::vector<std::unique_ptr<LentState>> lent;
  for (int i = 0; i < Scheduler::kMostLent; ++i) lent.push_back(scheduler.copy_state(request.prompt));
  EXPECT_EQ(lent[0]->slot().n_tokens(), 192);
  EXPECT_THROW(scheduler.copy_state(request.prompt), Busy);
  expect_same(answer_of(scheduler, request), before, "beside lent states");
  lent.pop_back();
  EXPECT_THROW(scheduler.copy_state(random_prompt(200, 2)), InvalidArgument);
  lent.push_back(scheduler.copy_state(request.prompt));
}

// From a scheduler to a file, and into one whose cache is full of other prompts: they give way, and the prompt finds its state.
TEST(scheduler_tasks, a_session_takes_the_place_of_what_is_worth_least) {
  const TinyModel model;
  const auto engine = model.engine();
  StatePool& pool = engine->states();
  const size_t limit = pool.bytes_of(301) + pool.bytes_of(256);
  const SessionStore store(model.folder / "sessions");
  Scheduler scheduler(*engine, *model.tokenizer, {.state_bytes = limit});
  const Request said = a_request(300, 1);
  const Answer before = answer_of(scheduler, said);
  store.save("said", {said.prompt, "[]"}, scheduler.copy_state(said.prompt)->slot());
  for (uint64_t seed = 2; seed < 12; ++seed) answer_of(scheduler, a_request(130, 1, seed));
  const auto known = [&] {
    int64_t n = 0;
    scheduler.with_cache([&](PrefixCache& cache) { n = cache.common_prefix(said.prompt); });
    return n;
  };
  ASSERT_EQ(known(), 0);
  const SessionStore::Saved saved = store.open("said");
  ASSERT_EQ(saved.state_tokens, 256);
  for (int i = 0; i < 2; ++i) {
    auto state = scheduler.lend_state(saved.state_tokens);
    state->slot().import_from(saved.file);
    if (i == 0) {
      EXPECT_THROW(scheduler.lend_state(saved.state_tokens), Busy);
      answer_of(scheduler, a_request(1, 1));  // others go on
    }
    scheduler.remember(saved.tokens_of_state(), std::move(state));
    EXPECT_EQ(known(), 256);
  }
  const Answer after = answer_of(scheduler, said);
  EXPECT_EQ(after.usage.cached_tokens, 256);
  expect_same(after, before, "from a file");
  EXPECT_LE(pool.peak_bytes(), limit);
  EXPECT_THROW(scheduler.lend_state(1000), OutOfMemory);
  scheduler.drain(std::chrono::steady_clock::now() + std::chrono::hours(1));
  EXPECT_EQ(scheduler.stats().bytes_reserved, 0u);

  const auto other = model.engine();  // with just the memory that it takes: a slot's, and a copy in the cache
  Scheduler tight(*other, *model.tokenizer, {.state_bytes = pool.bytes_of(256) + pool.sequence_bytes()});
  auto state = tight.lend_state(256);
  state->slot().import_from(saved.file);
  tight.remember(saved.tokens_of_state(), std::move(state));
  tight.with_cache([&](PrefixCache& cache) { EXPECT_EQ(cache.common_prefix(said.prompt), 256); });
  EXPECT_EQ(other->states().bytes(), pool.bytes_of(256));
}

// Requests have the memory, or a lent state has it: who comes second waits, or is told to, and nothing exceeds the limit.
TEST(scheduler_tasks, lent_states_keep_to_the_memory) {
  const TinyModel model;
  const auto engine = model.engine();
  const StatePool& pool = engine->states();
  const size_t one = pool.bytes_of(192), limit = 2 * one - pool.block_bytes();
  Scheduler scheduler(*engine, *model.tokenizer, {.state_bytes = limit});
  const Request small = a_request(193, 0), large = a_request(100, 101);
  ASSERT_GT(pool.bytes_of(201), limit - one);
  for (int i = 0; i < 3; ++i) {
    answer_of(scheduler, small);
    std::unique_ptr<LentState> lent = scheduler.copy_state(small.prompt);
    EXPECT_THROW(scheduler.copy_state(small.prompt), Busy);
    const auto waits = scheduler.submit(large), gives_up = scheduler.submit(large);
    gives_up->cancel();
    EXPECT_EQ(answer_of(*gives_up).choices[0].finish, Finish::cancelled);
    EXPECT_FALSE(waits->next(std::chrono::milliseconds(0)));
    lent.reset();
    EXPECT_EQ(answer_of(*waits).choices[0].finish, Finish::max_tokens);
    settle(scheduler);
  }
  EXPECT_LE(pool.peak_bytes(), limit);
}

}  // namespace
}  // namespace linnet::runtime
