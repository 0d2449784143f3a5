// The batcher's passes over prompts.
#include <algorithm>
#include <cstring>

#include "runtime/serve/batcher.h"
#include "runtime/serve/prompt_turns.h"

namespace linnet::runtime {
namespace {

constexpr int64_t kChunk = model::kPassChunk;

// A prefill pass beside running sequences may take as long as this many of their steps.
constexpr double kStepsPerPrefill = 2;
constexpr int64_t kFirstPrefillRoom = 4 * kChunk;  // while nothing has been measured

}  // namespace

int64_t Batcher::prompt_room() const {
  const bool alone = std::all_of(jobs_.begin(), jobs_.end(), [](const auto& job) { return job->reading(); });
  const int64_t most = engine_.tokens_per_pass();
  if (alone) return most;
  if (decode_seconds_.value() == 0 || seconds_per_prompt_token_.value() == 0) return std::min(most, kFirstPrefillRoom);
  const double tokens = kStepsPerPrefill * decode_seconds_.value() / seconds_per_prompt_token_.value();
  return std::clamp(static_cast<int64_t>(std::min(tokens, 1e9)) / kChunk * kChunk, kChunk, most);
}

// Which of them read how many tokens. Those that begin look into the cache now: others may have read the same since they came.
std::vector<int64_t> Batcher::next_turns(std::span<Job* const> readers) {
  for (;;) {
    std::vector<Reading> readings;
    for (const Job* job : readers) {
      const PromptReader& p = job->prompt;
      readings.push_back({p.n_read(), p.next_stop(), p.n_tokens(), job->arrival});
    }
    std::vector<int64_t> counts = prompt_turns(readings, prompt_room());
    bool all_begun = true;
    for (size_t i = 0; i < readers.size(); ++i) {
      if (counts[i] == 0 || readers[i]->prompt.begun()) continue;
      all_begun = false;
      begin(*readers[i]);
    }
    if (all_begun) return counts;
  }
}

void Batcher::begin(Job& job) {
  using From = PromptReader::From;
  const bool looks = memory_.caches() && !job.request.score_prompt;
  const int64_t n = job.prompt.begin(engine_, memory_, looks ? From::cache : From::nothing);
  job.usage.cached_tokens = n;
  if (looks && job.prompt.n_tokens() > kCacheBlock) ++(n > 0 ? stats_.cache_hits : stats_.cache_misses);
  stats_.cache_tokens += n;
}

void Batcher::prefill_pass() {
  std::vector<Job*> readers;
  for (auto& job : jobs_)
    if (job->reading()) readers.push_back(job.get());
  if (readers.empty()) return;
  const std::vector<int64_t> counts = next_turns(readers);
  std::vector<Append> appends;
  std::vector<Job*> jobs;
  int64_t n_tokens = 0;
  for (size_t i = 0; i < readers.size(); ++i) {
    if (counts[i] == 0) continue;
    Job& job = *readers[i];
    const bool ends = job.prompt.n_read() + counts[i] == job.prompt.n_tokens();
    const Want want = job.request.score_prompt ? Want::all : ends && job.draws() ? Want::last : Want::nothing;
    appends.push_back(job.prompt.append(counts[i], want, step_of(model::Step::prefill)));
    jobs.push_back(&job);
    n_tokens += counts[i];
  }

  const Clock::time_point start = Clock::now();
  std::vector<std::vector<float>> last(jobs.size());  // logits after the prompt
  const auto errors = append_each(engine_, appends, [&](size_t r, int64_t first, Tensor rows) {
    Job& job = *jobs[r];
    const int64_t position = job.prompt.n_read() + first;
    if (position + rows[0] == job.prompt.n_tokens() && job.draws()) {
      const float* end = rows.row<float>(rows[0] - 1);
      last[r].assign(end, end + vocab_);
    }
    if (job.request.score_prompt) score_rows(job, position, rows);
  });
  const double seconds = seconds_between(start, Clock::now());
  seconds_per_prompt_token_.add(seconds / static_cast<double>(n_tokens));
  ++stats_.prefill_passes, stats_.prefill_seconds += seconds, stats_.tokens_read += n_tokens;

  for (size_t r = 0; r < jobs.size(); ++r) {
    Job& job = *jobs[r];
    if (errors[r]) job.error = errors[r];
    if (job.error) continue;
    job.prompt.took(static_cast<int64_t>(appends[r].tokens.size()), memory_);
    if (job.prompt.done()) start_choices(job, last[r]);
  }
}

// Scores the prompt's tokens that these rows of logits, of tokens [position, position + rows[0]), predict.
void Batcher::score_rows(Job& job, int64_t position, Tensor rows) {
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
    draws.push_back({&choice, mine, job.prompt.n_tokens(), job.request.top_logprobs});
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
    choice.slot->copy_from(job.prompt.slot());
  }
  last->slot = job.prompt.take_slot();
}

}  // namespace linnet::runtime
