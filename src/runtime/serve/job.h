// Job: one request on its way through the scheduler. The scheduler's thread owns it.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "runtime/scheduler.h"

namespace linnet::runtime {

using Clock = std::chrono::steady_clock;

inline double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

struct Choice {
  int64_t index;
  Continuation said;
  std::unique_ptr<StateSlot>
      slot;  // holds the prompt and what was drawn but for the last token; null: not yet, or ended
  std::vector<int32_t> drawn;
  bool over = false;  // the client has been told how it ended

  // Of the latest draw.
  Continuation::Step step{};
  ScoredToken score;
  std::exception_ptr error;
};

struct Job {
  Request request;
  std::shared_ptr<Channel> channel;
  size_t bytes = 0;  // of states, reserved while it runs
  Clock::time_point submitted, admitted, prompt_read;
  int64_t arrival = 0;              // tokens of prompts that all jobs had read when it was admitted
  std::unique_ptr<StateSlot> slot;  // of the prompt, while that is read
  int64_t n_read = 0;               // tokens of the prompt
  std::vector<ScoredToken> prompt_scores;
  std::vector<Choice> choices;
  Usage usage;
  std::exception_ptr error;  // fails it at the next look
  bool over = false;         // its last event has been sent

  int64_t prompt_tokens() const { return static_cast<int64_t>(request.prompt.size()); }
  bool reading() const { return n_read < prompt_tokens(); }
  bool draws() const { return request.options.max_tokens != 0; }
};

// The ends of a job. Each sends its last events, frees its states and counts it.
void close_finished(Job& job, SchedulerStats& stats);            // all choices have ended by themselves
void close_cut(Job& job, Finish finish, SchedulerStats& stats);  // from outside; what was held back of texts comes, too
void close_failed(Job& job, std::exception_ptr error, SchedulerStats& stats);
void end_choice(Job& job, Choice& choice);  // sends choice_finished, frees the state

}  // namespace linnet::runtime
