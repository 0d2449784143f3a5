// Job: one request on its way through the scheduler. The scheduler's thread owns it.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "runtime/scheduler.h"
#include "runtime/serve/prompt_reader.h"

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
  int64_t arrival = 0;  // tokens of prompts that all jobs had read when it was admitted
  PromptReader prompt;
  std::vector<ScoredToken> prompt_scores;
  std::vector<Choice> choices;
  Usage usage;
  std::exception_ptr error;  // fails it at the next look
  bool over = false;         // its last event has been sent

  bool reading() const { return !prompt.done(); }
  bool draws() const { return request.options.max_tokens != 0; }
};

// The ends of a job. Each sends its last events, frees its states and counts it.
void close_finished(Job& job, SchedulerStats& stats);            // all choices have ended by themselves
void close_cut(Job& job, Finish finish, SchedulerStats& stats);  // from outside; what was held back of texts comes, too
void close_failed(Job& job, std::exception_ptr error, SchedulerStats& stats);
void end_choice(Job& job, Choice& choice);  // sends choice_finished, frees the state

}  // namespace linnet::runtime
