#include "runtime/serve/batcher.h"

#include <algorithm>
#include <cstring>

#include "core/text.h"
#include "runtime/serve/prompt_turns.h"

namespace linnet::runtime {
namespace {

constexpr int64_t kChunk = model::kPassChunk;

// A prefill pass beside running sequences may take as long as this many of their steps.
constexpr double kStepsPerPrefill = 2;
constexpr int64_t kFirstPrefillRoom = 4 * kChunk;  // while nothing has been measured

void smooth(double& mean, double value) { mean = mean == 0 ? value : mean + (value - mean) / 8; }

}  // namespace

Batcher::Batcher(Engine& engine, const SchedulerOptions& options)
    : engine_(engine),
      options_(options),
      budget_(engine.memory_plan(), options.state_bytes),
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
  return budget_.bytes_of(prompt, prompt + (more < 0 ? left : std::min(left, more)), request.n);
}

bool Batcher::fits(const Job& job) const {
  int64_t sequences = job.request.n;
  for (const auto& other : jobs_) sequences += other->request.n;
  return sequences <= options_.max_streams && budget_.fits(job.bytes);
}

void Batcher::admit(std::unique_ptr<Job> job) {
  budget_.reserve(job->bytes);
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
  prefill_pass();
  sweep();
  decode_pass();
  sweep();
}

void Batcher::sweep() {
  std::erase_if(jobs_, [&](const std::unique_ptr<Job>& job) {
    if (job->error && !job->over) close_failed(*job, job->error, stats_), job->over = true;
    if (job->over) budget_.release(job->bytes);
    return job->over;
  });
}

void Batcher::cut_all(Finish finish) {
  for (auto& job : jobs_) close_cut(*job, finish, stats_), job->over = true;
  sweep();
}

void Batcher::fail_all(const std::exception_ptr& error) {
  for (auto& job : jobs_)
    if (!job->over) job->error = error;
  sweep();
}

int64_t Batcher::prompt_room() const {
  const bool alone = std::all_of(jobs_.begin(), jobs_.end(), [](const auto& job) { return job->reading(); });
  const int64_t most = engine_.tokens_per_pass();
  if (alone) return most;
  if (decode_seconds_ == 0 || seconds_per_prompt_token_ == 0) return std::min(most, kFirstPrefillRoom);
  const double tokens = kStepsPerPrefill * decode_seconds_ / seconds_per_prompt_token_;
  return std::clamp(static_cast<int64_t>(std::min(tokens, 1e9)) / kChunk * kChunk, kChunk, most);
}

void Batcher::prefill_pass() {
  std::vector<Job*> readers;
  std::vector<Reading> readings;
  for (auto& job : jobs_) {
    if (!job->reading()) continue;
    readers.push_back(job.get());
    readings.push_back({job->n_read, job->prompt_tokens(), job->prompt_tokens(), job->arrival});
  }
  if (readers.empty()) return;
  const std::vector<int64_t> counts = prompt_turns(readings, prompt_room());
  std::vector<Append> appends;
  std::vector<Job*> jobs;
  int64_t n_tokens = 0;
  for (size_t i = 0; i < readers.size(); ++i) {
    Job& job = *readers[i];
    if (counts[i] == 0) continue;
    if (!job.slot) job.slot = std::make_unique<StateSlot>(engine_.new_slot());
    const auto tokens =
        std::span(job.request.prompt).subspan(static_cast<size_t>(job.n_read), static_cast<size_t>(counts[i]));
    const bool ends = job.n_read + counts[i] == job.prompt_tokens();
    const Want want = job.request.score_prompt ? Want::all : ends && job.draws() ? Want::last : Want::nothing;
    appends.push_back({.slot = job.slot.get(), .tokens = tokens, .want = want, .step = step_of(model::Step::prefill)});
    jobs.push_back(&job);
    n_tokens += counts[i];
  }

  const Clock::time_point start = Clock::now();
  std::vector<std::vector<float>> last(jobs.size());  // logits after the prompt
  const auto errors = append_each(engine_, appends, [&](size_t r, int64_t first, Tensor rows) {
    Job& job = *jobs[r];
    const int64_t position = job.n_read + first;
    if (position + rows[0] == job.prompt_tokens() && job.draws()) {
      const float* end = rows.row<float>(rows[0] - 1);
      last[r].assign(end, end + vocab_);
    }
    if (job.request.score_prompt) read_rows(job, position, rows);
  });
  const double seconds = seconds_between(start, Clock::now());
  smooth(seconds_per_prompt_token_, seconds / static_cast<double>(n_tokens));
  ++stats_.prefill_passes, stats_.prefill_seconds += seconds, stats_.tokens_read += n_tokens;

  for (size_t r = 0; r < jobs.size(); ++r) {
    if (errors[r]) jobs[r]->error = errors[r];
    if (jobs[r]->error) continue;
    jobs[r]->n_read += static_cast<int64_t>(appends[r].tokens.size());
    if (!jobs[r]->reading()) start_choices(*jobs[r], last[r]);
  }
}

// Scores the prompt's tokens that these rows of logits, of tokens [position, position + rows[0]), predict.
void Batcher::read_rows(Job& job, int64_t position, Tensor rows) {
  std::vector<std::exception_ptr> errors(static_cast<size_t>(rows[0]));
  engine_.pool().parallel_for(rows[0], 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto at = static_cast<size_t>(position + i);
      if (at + 1 >= job.request.prompt.size()) continue;
      try {
        job.prompt_scores[at] =
            score_token({rows.row<float>(i), vocab_}, job.request.prompt[at + 1], job.request.top_logprobs);
      } catch (...) { errors[static_cast<size_t>(i)] = std::current_exception(); }
    }
  });
  for (const std::exception_ptr& error : errors)
    if (error) job.error = error;
}

// The prompt has been read: `logits` come after it.
void Batcher::start_choices(Job& job, std::span<const float> logits) {
  job.prompt_read = Clock::now();
  if (job.request.score_prompt)
    job.channel->push({.kind = Event::Kind::prompt_scored, .tokens = std::move(job.prompt_scores)});
  std::vector<Draw> draws;
  rows_.resize(std::max(rows_.size(), job.choices.size() * vocab_));
  for (Choice& choice : job.choices) {
    if (choice.said.finish()) {  // no token is wanted
      end_choice(job, choice);
      continue;
    }
    const std::span<float> mine = row(draws.size());
    std::memcpy(mine.data(), logits.data(), logits.size_bytes());
    draws.push_back({&choice, mine, job.prompt_tokens(), job.request.top_logprobs});
  }
  draw_each(engine_.pool(), draws);
  for (const Draw& draw : draws) take_step(job, *draw.choice);
  finish_if_over(job);
  if (job.over || job.error) return;
  try {
    fork(job);
  } catch (...) { job.error = std::current_exception(); }
}

// Every choice that goes on gets the prompt's state: the last one the slot itself.
void Batcher::fork(Job& job) {
  Choice* last = nullptr;
  for (Choice& choice : job.choices)
    if (!choice.over) last = &choice;
  for (Choice& choice : job.choices) {
    if (choice.over || &choice == last) continue;
    choice.slot = std::make_unique<StateSlot>(engine_.new_slot());
    choice.slot->copy_from(*job.slot);
  }
  last->slot = std::move(job.slot);
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
    smooth(decode_seconds_, seconds);
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
  for (const auto& job : jobs_) stats_.sequences += job->request.n;
  stats_.bytes_limit = budget_.limit(), stats_.bytes_reserved = budget_.reserved();
  return stats_;
}

}  // namespace linnet::runtime
