// What a scheduler promises its clients: what a stream says, how it ends, what is refused.
#include "runtime/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <numeric>
#include <thread>

#include "runtime/scheduler_test_support.h"

namespace linnet::runtime {
namespace {

using formats::error_of;
using testing::HasSubstr;
using Clock = std::chrono::steady_clock;
constexpr auto kNever = Clock::time_point::max();

// Holds the engine at the beginning of each pass until it is opened.
class Gate {
 public:
  explicit Gate(Engine& engine) {
    engine.set_observer([this](int64_t layer, const ConstTensor&) {
      if (layer != 0) return;
      std::unique_lock lock(mutex_);
      ++passes_, changed_.notify_all();
      changed_.wait(lock, [&] { return open_; });
    });
  }
  void wait_for_pass() {  // until one has begun
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return passes_ > 0; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true, changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int passes_ = 0;
  bool open_ = false;
};

struct Schedule : testing::Test {
  static const TinyModel& model() {
    static const TinyModel model;
    return model;
  }
  const formats::Tokenizer& tokenizer = *model().tokenizer;
  std::unique_ptr<Engine> engine = model().engine(), other = model().engine({.threads = 1});

  std::unique_ptr<Scheduler> scheduler(SchedulerOptions options = {}) {
    if (options.state_bytes == 0) options.state_bytes = 64 << 20;
    return std::make_unique<Scheduler>(*engine, tokenizer, options);
  }
  // The request's first choice without a scheduler.
  GenerateResult alone(const Request& request, std::string* text = nullptr) {
    StateSlot slot = other->new_slot();
    return generate(*other, slot, tokenizer, {}, request.prompt, request.options, [&](std::string_view t) {
      if (text) *text += t;
      return true;
    });
  }
};

TEST_F(Schedule, streams_say_what_generate_says) {
  const auto all = scheduler();
  std::vector<Request> requests;
  for (int64_t length : {1, 2, 63, 64, 65, 128, 130, 300}) {
    requests.push_back(a_request(length, 20, static_cast<uint64_t>(length)));
    requests.back().options.sampling.temperature = length % 2 ? 0 : 1;
  }
  requests[2].options.stop_strings = {"e"};
  requests[3].options.end_ids = alone(requests[3]).tokens;  // ends with its first token
  requests[4].options.sampling.presence_penalty = 1;
  requests[5].options.max_tokens = 0;
  std::vector<std::unique_ptr<Stream>> streams;
  for (const Request& request : requests) streams.push_back(all->submit(request));
  for (size_t i = 0; i < requests.size(); ++i) {
    const Answer answer = answer_of(*streams[i]);
    std::string text;
    const GenerateResult want = alone(requests[i], &text);
    ASSERT_FALSE(answer.error);
    EXPECT_EQ(answer.choices[0].ids(), want.tokens) << "request " << i;
    EXPECT_EQ(answer.choices[0].text, text) << "request " << i;
    EXPECT_EQ(answer.choices[0].finish, want.finish) << "request " << i;
    EXPECT_EQ(answer.usage.prompt_tokens, static_cast<int64_t>(requests[i].prompt.size()));
    EXPECT_EQ(answer.usage.generated_tokens, static_cast<int64_t>(want.tokens.size()));
  }
  all->drain(kNever);
  const SchedulerStats stats = all->stats();
  EXPECT_EQ(stats.submitted, static_cast<int64_t>(requests.size()));
  EXPECT_EQ(stats.finished, stats.submitted);
  EXPECT_EQ(stats.running + stats.waiting, 0);
  EXPECT_EQ(stats.bytes_reserved, 0u);
}

TEST_F(Schedule, a_context_can_be_filled) {
  engine = model().engine({.threads = 1, .context = 100}), other = model().engine({.threads = 1, .context = 100});
  const auto all = scheduler();
  const Request request = a_request(90, -1);
  const Answer answer = answer_of(*all, request);
  EXPECT_EQ(answer.choices[0].finish, Finish::context_full);
  EXPECT_EQ(answer.choices[0].ids(), alone(request).tokens);
}

TEST_F(Schedule, a_long_prompt_and_a_running_stream_take_turns) {
  std::vector<int64_t> passes;  // tokens of each
  engine->set_observer([&](int64_t layer, const ConstTensor& tokens) {
    if (layer == 0) passes.push_back(tokens[0]);
  });
  auto all = scheduler();
  const auto running = all->submit(a_request(1, -1));
  running->next(std::chrono::hours(1));
  ASSERT_FALSE(answer_of(*all, a_request(1500, 1, 2)).error);
  all.reset();
  const auto read = [](int64_t n) { return n > 1; };
  const auto first = std::find_if(passes.begin(), passes.end(), read);
  const auto last = std::find_if(passes.rbegin(), passes.rend(), read).base() - 1;
  ASSERT_GT(last - first, 8);  // by far the most of it: the clock says how much goes into a pass
  for (auto pass = first; pass < last; ++pass)
    EXPECT_NE(read(pass[0]), read(pass[1])) << "pass " << pass - passes.begin();
  EXPECT_EQ(std::accumulate(first, last + 1, int64_t{0}), 1500 + (last - first) / 2);
}

TEST_F(Schedule, choices_are_drawn_from_one_reading_of_the_prompt) {
  const auto all = scheduler();
  Request request = a_request(70, 12);
  request.n = 4;
  const Answer answer = answer_of(*all, request);
  EXPECT_EQ(answer.usage.generated_tokens, 4 * 12);
  EXPECT_EQ(all->stats().tokens_read, 70);
  for (uint64_t i = 0; i < 4; ++i) {
    Request one = request;
    one.n = 1;
    if (i > 0) one.options.sampling.seed = mix64(request.options.sampling.seed + i);
    EXPECT_EQ(answer.choices[i].ids(), alone(one).tokens) << "choice " << i;
    EXPECT_EQ(answer.choices[i].finish, Finish::max_tokens);
  }
  EXPECT_NE(answer.choices[0].ids(), answer.choices[1].ids());
}

TEST_F(Schedule, scores_are_log_probabilities_before_sampling_parameters) {
  const auto all = scheduler();
  Request request = a_request(130, 5);
  request.top_logprobs = 3, request.score_prompt = true;
  request.options.sampling.temperature = 0.5f,
  request.options.sampling.logit_bias = {{7, 50.f}};  // it draws nothing but 7
  const Answer answer = answer_of(*all, request);
  ASSERT_EQ(answer.prompt.size(), 129u);
  ASSERT_EQ(answer.choices[0].tokens.size(), 5u);

  // The same in double, from the logits of all tokens.
  std::vector<int32_t> said = request.prompt;
  for (int32_t id : answer.choices[0].ids()) said.push_back(id);
  EXPECT_EQ(answer.choices[0].ids(), std::vector<int32_t>(5, 7));
  StateSlot slot = other->new_slot();
  const Append append{.slot = &slot, .tokens = said, .want = Want::all};
  other->append({&append, 1}, [&](size_t, int64_t first, Tensor rows) {
    for (int64_t i = 0; i < rows[0]; ++i) {
      const auto at = static_cast<size_t>(first + i);
      if (at + 1 >= said.size()) continue;
      const float* row = rows.row<float>(i);
      double sum = 0;
      for (int64_t v = 0; v < rows[1]; ++v) sum += std::exp(static_cast<double>(row[v]));
      const ScoredToken& got = at < 129 ? answer.prompt[at] : answer.choices[0].tokens[at - 129];
      EXPECT_EQ(got.id, said[at + 1]);
      const auto expect = [&](const TokenScore& s) { EXPECT_NEAR(s.logprob, row[s.id] - std::log(sum), 1e-3) << at; };
      expect(got);
      ASSERT_EQ(got.top.size(), 3u);
      for (const TokenScore& s : got.top) expect(s);
      EXPECT_EQ(got.top[0].id, std::max_element(row, row + rows[1]) - row);
      EXPECT_GE(got.top[0].logprob, got.top[1].logprob);
      EXPECT_GE(got.top[1].logprob, got.top[2].logprob);
    }
  });

  request.options.max_tokens = 0;  // the prompt alone
  const Answer prompt = answer_of(*all, request);
  ASSERT_EQ(prompt.prompt.size(), 129u);
  EXPECT_TRUE(prompt.choices[0].tokens.empty());
  EXPECT_EQ(prompt.choices[0].finish, Finish::max_tokens);
}

TEST_F(Schedule, what_can_never_run_is_refused) {
  const auto all = scheduler({.max_streams = 4, .state_bytes = 512 << 10});
  const auto refusal = [&](auto change) {
    Request request = a_request(10, 10);
    change(request);
    return error_of<InvalidArgument>([&] { all->submit(request); });
  };
  EXPECT_THAT(refusal([](Request& r) { r.prompt.clear(); }), HasSubstr("at least one token"));
  EXPECT_THAT(refusal([](Request& r) { r.prompt[3] = -1; }), HasSubstr("prompt: token 3"));
  EXPECT_THAT(refusal([](Request& r) { r.prompt[3] = 1 << 20; }), HasSubstr("prompt: token 3"));
  EXPECT_THAT(refusal([&](Request& r) { r.prompt.resize(static_cast<size_t>(engine->context())); }),
              HasSubstr("context"));
  EXPECT_THAT(refusal([](Request& r) { r.n = 0; }), HasSubstr("n: expected 1 to 4"));
  EXPECT_THAT(refusal([](Request& r) { r.n = 5; }), HasSubstr("n: expected 1 to 4"));
  EXPECT_THAT(refusal([](Request& r) { r.options.sampling.top_p = 2; }), HasSubstr("top_p"));
  EXPECT_THAT(refusal([](Request& r) { r.options.stop_strings = {""}; }), HasSubstr("stop string"));
  EXPECT_THAT(refusal([](Request& r) { r.top_logprobs = -2; }), HasSubstr("top_logprobs"));
  EXPECT_THAT(refusal([](Request& r) { r.options.max_tokens = -1; }), HasSubstr("its states can take"));
  EXPECT_EQ(all->stats().submitted, 0);
  EXPECT_THROW(scheduler({.max_streams = 0}), InvalidArgument);
  EXPECT_THROW(scheduler({.max_queue = -1}), InvalidArgument);
}

TEST_F(Schedule, dropped_cancelled_and_late_requests_end) {
  Gate gate(*engine);
  const auto all = scheduler({.max_streams = 4});
  Request late = a_request(10, -1);
  late.deadline = Clock::now() + std::chrono::milliseconds(20);
  std::unique_ptr<Stream> streams[4];
  for (auto& stream : streams) stream = all->submit(&stream == &streams[0] ? late : a_request(10, -1));
  const auto waits = all->submit(a_request(10, -1)), waits_late = all->submit(late);
  gate.wait_for_pass();
  std::this_thread::sleep_until(late.deadline);
  streams[1].reset();  // the client hangs up
  streams[2]->cancel();
  waits->cancel();
  gate.open();
  EXPECT_EQ(answer_of(*streams[0]).choices[0].finish, Finish::timed_out);
  EXPECT_EQ(answer_of(*streams[2]).choices[0].finish, Finish::cancelled);
  const Answer never = answer_of(*waits), never_late = answer_of(*waits_late);
  EXPECT_EQ(never.choices[0].finish, Finish::cancelled);
  EXPECT_EQ(never_late.choices[0].finish, Finish::timed_out);
  EXPECT_EQ(never.usage.generated_tokens, 0);
  streams[3]->cancel();
  const Answer cancelled = answer_of(*streams[3]);
  EXPECT_EQ(cancelled.choices[0].finish, Finish::cancelled);
  EXPECT_EQ(static_cast<int64_t>(cancelled.choices[0].tokens.size()), cancelled.usage.generated_tokens);
  all->drain(kNever);
  EXPECT_EQ(all->stats().cancelled, 4);
  EXPECT_EQ(all->stats().timed_out, 2);
  EXPECT_EQ(all->stats().bytes_reserved, 0u);
}

TEST_F(Schedule, a_full_queue_refuses_and_says_when_to_come_again) {
  Gate gate(*engine);
  const auto all = scheduler({.max_streams = 2, .max_queue = 1});
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 3; ++i) streams.push_back(all->submit(a_request(10, 3)));
  try {
    all->submit(a_request(10, 3));
    FAIL() << "a fourth request found a place";
  } catch (const Busy& busy) {
    EXPECT_EQ(busy.retry_after_seconds, 1);  // nothing is known of the pace yet
    EXPECT_FALSE(busy.draining);
    EXPECT_THAT(busy.what(), HasSubstr("1 requests wait"));
  }
  gate.open();
  for (auto& stream : streams) EXPECT_EQ(answer_of(*stream).choices[0].finish, Finish::max_tokens);
  EXPECT_EQ(all->stats().refused, 1);
  all->drain(kNever);
  try {
    all->submit(a_request(10, 3));
    FAIL() << "a request came in after the end";
  } catch (const Busy& busy) { EXPECT_TRUE(busy.draining); }
}

TEST_F(Schedule, little_memory_makes_requests_wait) {
  Request request = a_request(100, 20);
  request.n = 2;
  const MemoryPlan plan = engine->memory_plan();
  const auto most = static_cast<size_t>(2 * plan.state_bytes_per_sequence + 3 * plan.state_bytes_per_block);
  const auto all = scheduler({.state_bytes = most});
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 5; ++i) streams.push_back(all->submit(request));
  const Answer first = answer_of(*streams[0], 2);
  for (int i = 1; i < 5; ++i) expect_same(answer_of(*streams[static_cast<size_t>(i)], 2), first, cat("request ", i));
  request.options.max_tokens += 9;  // one more block
  EXPECT_THAT(error_of<InvalidArgument>([&] { all->submit(request); }), HasSubstr("its states can take"));
}

TEST_F(Schedule, draining_lets_streams_end_until_the_time_is_over) {
  const auto all = scheduler({.max_streams = 2});
  const auto brief = all->submit(a_request(10, 3)), endless = all->submit(a_request(10, -1)),
             waits = all->submit(a_request(10, -1));
  const Answer answer = answer_of(*brief);
  all->drain(Clock::now());
  EXPECT_EQ(answer.choices[0].finish, Finish::max_tokens);
  EXPECT_EQ(answer_of(*endless).choices[0].finish, Finish::cancelled);
  EXPECT_EQ(answer_of(*waits).choices[0].finish, Finish::cancelled);
  EXPECT_EQ(all->stats().replies_to_settle, 0);  // nothing is begun after the end
}

TEST_F(Schedule, streams_outlive_a_scheduler_that_goes_in_the_middle) {
  Gate gate(*engine);
  auto all = scheduler({.max_streams = 2});
  const auto runs = all->submit(a_request(200, -1)), waits = all->submit(a_request(10, -1));
  gate.wait_for_pass();
  gate.open();
  all.reset();
  EXPECT_EQ(answer_of(*runs).choices[0].finish, Finish::cancelled);
  EXPECT_EQ(answer_of(*waits).choices[0].finish, Finish::cancelled);
}

TEST_F(Schedule, a_failing_pass_fails_what_was_in_it) {
  std::atomic<bool> fail = false;
  engine->set_observer([&](int64_t layer, const ConstTensor&) {
    if (layer == 2 && fail.exchange(false)) throw OutOfMemory("no memory for this pass");
  });
  const auto all = scheduler({.max_streams = 2});
  const auto first = all->submit(a_request(10, -1)), second = all->submit(a_request(10, -1)),
             third = all->submit(a_request(10, 5));
  while (const auto event = second->next(std::chrono::hours(1)))  // both generate
    if (event->kind == Event::Kind::text) break;
  fail = true;
  for (Stream* stream : {first.get(), second.get()}) {
    const Answer answer = answer_of(*stream);
    ASSERT_TRUE(answer.error);
    EXPECT_THROW(std::rethrow_exception(answer.error), OutOfMemory);
  }
  EXPECT_EQ(answer_of(*third).choices[0].ids(), alone(a_request(10, 5)).tokens);
  EXPECT_EQ(all->stats().failed, 2);
}

// Memory that is gone although it was promised costs those that ask for more, and no other.
TEST_F(Schedule, a_sequence_that_finds_no_memory_fails_alone) {
  std::promise<void> both_are_there;
  int passes = 0;
  engine->set_observer([&](int64_t layer, const ConstTensor&) {
    if (layer != 0) return;
    if (++passes == 1) both_are_there.get_future().wait();
    if (passes == 5) engine->states().set_limit(engine->states().bytes());  // both generate, in their first blocks
  });
  const auto all = scheduler();
  const auto grows = all->submit(a_request(58, 20)), stays = all->submit(a_request(5, 40));
  both_are_there.set_value();
  const Answer answer = answer_of(*grows);
  ASSERT_TRUE(answer.error);
  EXPECT_THROW(std::rethrow_exception(answer.error), OutOfMemory);
  EXPECT_EQ(answer_of(*stays).choices[0].ids(), alone(a_request(5, 40)).tokens);
  EXPECT_EQ(all->stats().failed, 1);
}

TEST_F(Schedule, a_sampler_that_fails_fails_its_request_alone) {
  const auto all = scheduler();
  Request hopeless = a_request(10, 5);
  for (int32_t id = 0; id < engine->config().vocab_size; ++id)
    hopeless.options.sampling.logit_bias.push_back({id, -INFINITY});
  const auto fails = all->submit(hopeless), runs = all->submit(a_request(10, 5));
  const Answer answer = answer_of(*fails);
  ASSERT_TRUE(answer.error);
  EXPECT_THROW(std::rethrow_exception(answer.error), InvalidArgument);
  EXPECT_EQ(answer_of(*runs).choices[0].ids(), alone(a_request(10, 5)).tokens);
}

// A client that takes nothing finds everything at the end, in as few events as there are things to say.
TEST_F(Schedule, nobody_waits_for_a_client_that_does_not_read) {
  const auto all = scheduler();
  Request request = a_request(10, 300);
  request.n = 2;
  const auto lazy = all->submit(request);
  const Answer other_answer = answer_of(*all, request);
  all->drain(kNever);
  std::vector<Event::Kind> kinds;
  while (auto event = lazy->next({})) kinds.push_back(event->kind);
  using enum Event::Kind;
  EXPECT_THAT(kinds, testing::UnorderedElementsAre(text, text, choice_finished, choice_finished, finished));
  EXPECT_EQ(kinds.back(), finished);
  EXPECT_EQ(other_answer.choices[0].tokens.size(), 300u);
}

}  // namespace
}  // namespace linnet::runtime
