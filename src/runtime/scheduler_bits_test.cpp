// Nobody is changed by company: what a request answers among many others, whatever they do, equals bit for bit what it answers on an
// idle scheduler that remembers nothing, and the tokens are those of generate().
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "core/text.h"
#include "runtime/scheduler_test_support.h"

namespace linnet::runtime {
namespace {

using Clock = std::chrono::steady_clock;

// Requests of every kind: lengths on both sides of the chunk, prompts with a common beginning, greedy and drawn, several choices,
// penalties, stop strings, scores of the prompt.
Request some_request(uint64_t seed) {
  const Rng rng(seed, 5);
  const std::vector<int64_t> lengths = {1, 5, 63, 64, 65, 90, 127, 128, 129, 200, 260};
  Request request = a_request(lengths[rng.bits(0) % lengths.size()], static_cast<int64_t>(rng.bits(1) % 24), seed);
  if (rng.bits(2) % 3 == 0) {  // a beginning that others have, too
    const std::vector<int32_t> common = random_prompt(150, 99);
    request.prompt.insert(request.prompt.begin(), common.begin(), common.end());
  }
  request.n = rng.bits(3) % 4 == 0 ? 3 : 1;
  request.top_logprobs = static_cast<int64_t>(rng.bits(4) % 3);
  request.score_prompt = rng.bits(5) % 8 == 0;
  SamplingParams& sampling = request.options.sampling;
  sampling.temperature = rng.bits(6) % 3 == 0 ? 0.f : 0.9f;
  sampling.top_p = rng.bits(7) % 2 ? 1.f : 0.9f;
  sampling.repetition_penalty = rng.bits(8) % 4 ? 1.f : 1.2f;
  if (rng.bits(9) % 4 == 0) request.options.stop_strings = {"a", "ab"};
  return request;
}

constexpr uint64_t kRequests = 64;

// The requests and their answers alone, computed once.
struct Wanted {
  TinyModel model;
  std::vector<Request> requests;
  std::vector<Answer> alone;

  explicit Wanted(DType dtype) : model(dtype) {
    const auto engine = model.engine({.threads = 1});
    Scheduler scheduler(*engine, *model.tokenizer, {.state_bytes = 64 << 20, .prefix_cache = false});
    for (uint64_t seed = 0; seed < kRequests; ++seed) {
      requests.push_back(some_request(seed));
      alone.push_back(answer_of(scheduler, requests.back()));
    }
  }
  static const Wanted& of(DType dtype) {
    static const Wanted bf16(DType::bf16), f32(DType::f32);
    return dtype == DType::bf16 ? bf16 : f32;
  }
};

struct SchedulerBits : testing::TestWithParam<DType> {
  const TinyModel& model = Wanted::of(GetParam()).model;
  const std::vector<Request>& requests = Wanted::of(GetParam()).requests;
  const std::vector<Answer>& alone = Wanted::of(GetParam()).alone;

  void expect_alone(size_t i, Stream& stream, const std::string& where) {
    const Answer got = answer_of(stream, requests[i].n);
    ASSERT_FALSE(got.error) << where;
    expect_same(got, alone[i], cat(where, ": request ", i));
  }
};

TEST_P(SchedulerBits, alone_is_what_generate_says) {
  const auto engine = model.engine({.threads = 1});
  for (size_t i = 0; i < kRequests; ++i) {
    StateSlot slot = engine->new_slot();
    const GenerateResult want =
        generate(*engine, slot, *model.tokenizer, {}, requests[i].prompt, requests[i].options, nullptr);
    EXPECT_EQ(alone[i].choices[0].ids(), want.tokens) << "request " << i;
    EXPECT_EQ(alone[i].choices[0].finish, want.finish) << "request " << i;
  }
}

TEST_P(SchedulerBits, all_at_once) {
  const auto engine = model.engine({.threads = 3});
  engine->states().set_fill(std::byte{0x3e});  // what memory holds before it is written reaches nobody
  Scheduler scheduler(*engine, *model.tokenizer, {.max_streams = 128, .state_bytes = 64 << 20});
  for (const char* round : {"first time", "again"}) {
    std::vector<std::unique_ptr<Stream>> streams;
    for (const Request& request : requests) streams.push_back(scheduler.submit(request));
    for (size_t i = 0; i < kRequests; ++i) expect_alone(i, *streams[i], round);
  }
  EXPECT_GT(scheduler.stats().cache_hits, static_cast<int64_t>(kRequests) / 2);
}

// Arrivals one by one while others are in the middle, some of which hang up; short passes cut prompts everywhere.
TEST_P(SchedulerBits, at_odd_moments) {
  const auto engine = model.engine({.threads = 2, .tokens_per_pass = 64});
  Scheduler scheduler(*engine, *model.tokenizer, {.max_streams = 20, .state_bytes = 64 << 20});
  std::vector<std::unique_ptr<Stream>> streams, noise;
  for (size_t i = 0; i < kRequests; ++i) {
    streams.push_back(scheduler.submit(requests[i]));
    noise.push_back(scheduler.submit(some_request(1000 + i)));
    if (i % 3 == 0) noise.back()->next(std::chrono::hours(1));  // until it has said something, or ended
    if (i % 2 == 0) noise[i / 2].reset();
  }
  for (size_t i = 0; i < kRequests; ++i) expect_alone(i, *streams[i], "at odd moments");
}

TEST_P(SchedulerBits, with_memory_for_a_few_only) {
  const auto engine = model.engine({.threads = 2});
  Scheduler scheduler(*engine, *model.tokenizer, {.state_bytes = 400 << 10});
  std::vector<std::unique_ptr<Stream>> streams;
  for (const Request& request : requests) streams.push_back(scheduler.submit(request));
  for (size_t i = 0; i < kRequests; ++i) expect_alone(i, *streams[i], "with little memory");
  const SchedulerStats stats = scheduler.stats();
  EXPECT_LE(engine->states().peak_bytes(), stats.bytes_limit);
  EXPECT_GT(stats.cache_evictions, 0);
}

INSTANTIATE_TEST_SUITE_P(weights, SchedulerBits, testing::Values(DType::bf16, DType::f32),
                         [](const auto& dtype) { return std::string(name_of(dtype.param)); });

// Conversations of several clients at once. Each begins with tokens that no other has; a turn repeats all that was said. Some hang up
// in the middle; the memory holds a few of them. Every answer equals the one computed alone, so nothing of one reaches another.
// LINNET_SOAK_REQUESTS makes it longer.
TEST(SchedulerSoak, every_answer_equals_the_one_computed_alone) {
  constexpr int64_t kClients = 8, kTurns = 5;
  const char* asked = std::getenv("LINNET_SOAK_REQUESTS");
  const int64_t n_conversations = (asked ? std::atoll(asked) : 240) / kTurns;
  const TinyModel model;
  const auto engine = model.engine({.threads = 2, .tokens_per_pass = 128});
  Scheduler scheduler(*engine, *model.tokenizer, {.max_streams = 6, .max_queue = 4, .state_bytes = 1200 << 10});
  std::atomic<int64_t> next = 0, compared = 0;

  const auto converse = [&](Engine& reference, int64_t conversation) {
    Rng rng(static_cast<uint64_t>(conversation), 23);
    std::vector<int32_t> said = random_prompt(conversation % 2 ? 70 : 0, 42);  // half of them share a beginning
    const std::vector<int32_t> canary(3, static_cast<int32_t>(conversation % 700));
    for (uint64_t turn = 0; turn < kTurns; ++turn) {
      said.insert(said.end(), canary.begin(), canary.end());
      const auto more = random_prompt(1 + static_cast<int64_t>(rng.bits() % 80), static_cast<uint64_t>(conversation));
      said.insert(said.end(), more.begin(), more.end());
      Request request = a_request(1, static_cast<int64_t>(1 + rng.bits() % 30), turn);
      request.prompt = said;
      std::unique_ptr<Stream> stream;
      while (!stream) try {
          stream = scheduler.submit(request);
        } catch (const Busy&) { std::this_thread::yield(); }
      if (rng.bits() % 4 == 0) {  // hangs up, soon or at once, and says the same again
        if (rng.bits() % 2) stream->next(std::chrono::hours(1));
        --turn, said.resize(said.size() - more.size() - canary.size());
        said.push_back(7);  // not quite
        continue;
      }
      const Answer answer = answer_of(*stream);
      ASSERT_FALSE(answer.error);
      StateSlot slot = reference.new_slot();
      const GenerateResult want = generate(reference, slot, *model.tokenizer, {}, said, request.options, nullptr);
      ASSERT_EQ(answer.choices[0].ids(), want.tokens) << "conversation " << conversation << ", turn " << turn;
      said.insert(said.end(), want.tokens.begin(), want.tokens.end());
      ++compared;
    }
  };
  std::vector<std::thread> clients;
  for (int64_t c = 0; c < kClients; ++c)
    clients.emplace_back([&] {
      const auto reference = model.engine({.threads = 1});
      for (int64_t i = next++; i < n_conversations; i = next++) converse(*reference, i);
    });
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(compared, n_conversations * kTurns);
  scheduler.drain(Clock::time_point::max());
  SchedulerStats stats = scheduler.stats();
  while (stats.replies_to_settle > 0) {  // read once more when there is nothing else to do, with memory of their own
    std::this_thread::yield();
    stats = scheduler.stats();
  }
  EXPECT_EQ(stats.bytes_reserved, 0u);
  EXPECT_EQ(stats.failed, 0);
  EXPECT_GT(stats.cache_hits, 0);
  EXPECT_GT(stats.cache_evictions, 0);
  EXPECT_LE(engine->states().peak_bytes(), stats.bytes_limit);
}

}  // namespace
}  // namespace linnet::runtime
