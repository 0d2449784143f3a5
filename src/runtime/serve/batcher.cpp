#include "runtime/serve/batcher.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/text.h"

namespace linnet::runtime {
namespace {

constexpr int64_t kChunk = model::kPassChunk;

}  // namespace

Batcher::Batcher(Engine& engine, const SchedulerOptions& options)
    : engine_(engine),
      options_(options),
      memory_(engine, options.state_bytes, options.prefix_cache),
      vocab_(static_cast<size_t>(engine.config().vocab_size)) {
  if (options_.max_streams < 1 || options_.max_queue < 0)
    throw InvalidArgument(cat("scheduler: expected at least 1 stream and a queue of 0 or more, got ",
                              options_.max_streams, " and ", options_.max_queue));
  if (engine_.tokens_per_pass() < kChunk)
    throw InvalidArgument(
        cat("scheduler: expected passes of at least ", kChunk, " tokens, got ", engine_.tokens_per_pass()));
}

size_t Batcher::bytes_of(const Request& request) const {
  const int64_t prompt = static_cast<int64_t>(request.prompt.size()), left = engine_.context() - prompt,
                more = request.options.max_tokens;
  return memory_.bytes_of(prompt, prompt + (more < 0 ? left : std::min(left, more)), request.n);
}

bool Batcher::make_room(const Job& job) {
  int64_t sequences = job.request.n;
  for (const auto& other : jobs_) sequences += other->request.n;
  if (sequences > options_.max_streams) return false;
  if (!memory_.fits(job.bytes) && !replies_.empty()) drop_reply();
  return memory_.fits(job.bytes);
}

size_t Batcher::promise(size_t bytes) {
  if (!memory_.fits(bytes) && !replies_.empty()) drop_reply();
  if (!memory_.fits(bytes)) throw Busy("states: requests have the memory that this one takes", 1, false);
  memory_.reserve(bytes);
  return bytes;
}

size_t Batcher::copy_state(std::span<const int32_t> tokens, StateSlot& slot) {
  try {
    if (memory_.cache().copy_state(tokens, slot) == 0)
      throw InvalidArgument(cat("states: none of these ", tokens.size(), " tokens is remembered"));
    return promise(memory_.bytes_of(slot.n_tokens(), slot.n_tokens(), 1));
  } catch (const OutOfMemory&) {
    throw Busy("states: requests have the memory that a copy takes", 1, false);
  } catch (...) {
    slot.reset();
    throw;
  }
}

// With the copy that the cache makes of the per-sequence state.
size_t Batcher::lend_memory(int64_t n_tokens) {
  const size_t bytes = memory_.bytes_of(n_tokens, n_tokens, 1) + engine_.states().sequence_bytes();
  if (bytes > memory_.limit())
    throw OutOfMemory(cat("states: one of ", n_tokens, " tokens takes ", bytes_text(bytes), ", but there are ",
                          bytes_text(memory_.limit()), " for all"));
  return promise(bytes);
}

void Batcher::remember(std::span<const int32_t> tokens, LentState& state) {
  const size_t copy = engine_.states().sequence_bytes();
  memory_.release(copy), state.bytes_ -= copy;  // the cache's from here on
  memory_.cache().insert(tokens, state.slot_);
  state.slot_.reset();
  memory_.release(std::exchange(state.bytes_, 0));
}

void Batcher::admit(std::unique_ptr<Job> job) {
  memory_.reserve(job->bytes);
  job->admitted = Clock::now();
  job->arrival = stats_.tokens_read;
  if (job->request.score_prompt) job->prompt_scores.resize(job->request.prompt.size() - 1);
  jobs_.push_back(std::move(job));
}

void Batcher::round() {
  const Clock::time_point now = Clock::now();
  for (auto& job : jobs_) {
    if (job->channel->cancelled()) close_cut(*job, Finish::cancelled, stats_), job->over = true;
    else if (now >= job->request.deadline) close_cut(*job, Finish::timed_out, stats_), job->over = true;
  }
  sweep();
  if (jobs_.empty()) return settle_pass();
  prefill_pass();
  sweep();
  decode_pass();
  sweep();
}

void Batcher::sweep() {
  std::erase_if(jobs_, [&](const std::unique_ptr<Job>& job) {
    if (job->error && !job->over) close_failed(*job, job->error, stats_), job->over = true;
    if (!job->over) return false;
    memory_.release(job->bytes);
    if (!job->error) keep_for_settling(*job);
    return true;
  });
}

void Batcher::cut_all(Finish finish) {
  for (auto& job : jobs_) close_cut(*job, finish, stats_), job->over = true;
  sweep();
  while (!replies_.empty()) drop_reply();
}

void Batcher::fail_all(const std::exception_ptr& error) {
  for (auto& job : jobs_)
    if (!job->over) job->error = error;
  sweep();
}

void Batcher::decode_pass() {
  struct Sequence {
    Job* job;
    Choice* choice;
  };
  std::vector<Sequence> all;
  for (auto& job : jobs_)
    if (!job->reading())
      for (Choice& choice : job->choices)
        if (!choice.over) all.push_back({job.get(), &choice});
  const auto most = static_cast<size_t>(engine_.tokens_per_pass());
  for (size_t from = 0; from < all.size(); from += most) {
    const std::span<const Sequence> batch = std::span(all).subspan(from, std::min(most, all.size() - from));
    const Clock::time_point start = Clock::now();
    rows_.resize(std::max(rows_.size(), batch.size() * vocab_));
    std::vector<Append> appends;
    for (const Sequence& s : batch)
      appends.push_back(
          {.slot = s.choice->slot.get(), .tokens = {&s.choice->step.token, 1}, .step = step_of(model::Step::decode)});
    const auto errors = append_each(engine_, appends, [&](size_t r, int64_t, Tensor rows) {
      std::memcpy(row(r).data(), rows.data, vocab_ * sizeof(float));
    });
    std::vector<Draw> draws;
    for (size_t r = 0; r < batch.size(); ++r) {
      Job& job = *batch[r].job;
      if (errors[r]) job.error = errors[r];
      else draws.push_back({batch[r].choice, row(r), batch[r].choice->slot->n_tokens(), job.request.top_logprobs});
    }
    draw_each(engine_.pool(), draws);
    for (size_t r = 0; r < batch.size(); ++r)
      if (!batch[r].job->error) take_step(*batch[r].job, *batch[r].choice);
    for (const Sequence& s : batch) finish_if_over(*s.job);
    const double seconds = seconds_between(start, Clock::now());
    decode_seconds_.add(seconds);
    ++stats_.decode_passes, stats_.decode_seconds += seconds;
  }
}

// Tells the client of the token that was drawn.
void Batcher::take_step(Job& job, Choice& choice) {
  if (choice.error) {
    job.error = choice.error;
    return;
  }
  ++stats_.tokens_generated, ++job.usage.generated_tokens;
  choice.drawn.push_back(choice.step.token);
  const bool over = choice.said.finish().has_value();
  Event event{.kind = Event::Kind::text, .choice = choice.index, .text = std::move(choice.step.text)};
  if (!choice.step.is_end) event.tokens.push_back(std::move(choice.score));
  if (over) event.text += choice.said.rest();
  if (!event.tokens.empty() || !event.text.empty()) job.channel->push(std::move(event));
  if (over) end_choice(job, choice);
}

void Batcher::finish_if_over(Job& job) {
  if (job.over || job.error) return;
  job.over = std::all_of(job.choices.begin(), job.choices.end(), [](const Choice& choice) { return choice.over; });
  if (job.over) close_finished(job, stats_);
}

const SchedulerStats& Batcher::stats() {
  stats_.running = n_jobs(), stats_.sequences = 0;
  stats_.replies_to_settle = static_cast<int64_t>(replies_.size());
  for (const auto& job : jobs_) stats_.sequences += job->request.n;
  stats_.bytes_limit = memory_.limit(), stats_.bytes_reserved = memory_.reserved();
  const PrefixCacheStats cache = memory_.cache().stats();
  stats_.bytes_cached = cache.bytes, stats_.cache_entries = cache.entries, stats_.cache_evictions = cache.evictions;
  return stats_;
}

}  // namespace linnet::runtime
