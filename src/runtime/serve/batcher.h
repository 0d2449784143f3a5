// Batcher: the requests that have a place, advanced together a pass at a time. Not thread-safe: the scheduler's thread owns it.
#pragma once

#include <memory>
#include <vector>

#include "runtime/serve/job.h"
#include "runtime/serve/passes.h"
#include "runtime/serve/state_budget.h"

namespace linnet::runtime {

class Batcher {
 public:
  Batcher(Engine& engine, const SchedulerOptions& options);

  size_t bytes_of(const Request& request) const;  // of states, at most
  size_t bytes_limit() const { return budget_.limit(); }
  bool fits(const Job& job) const;  // a place and memory for it are free
  void admit(std::unique_ptr<Job> job);
  int64_t n_jobs() const { return static_cast<int64_t>(jobs_.size()); }
  bool idle() const { return jobs_.empty(); }  // nothing to do

  // One round: ends what was cancelled or is late, then one pass over prompts and one over the sequences that generate.
  void round();
  void cut_all(Finish finish);
  void fail_all(const std::exception_ptr& error);

  const SchedulerStats& stats();  // of what has a place

 private:
  void prefill_pass();
  void decode_pass();
  int64_t prompt_room() const;
  model::Step step_of(model::Step kind) const { return options_.invariant ? kind : model::Step::cheapest; }
  void read_rows(Job& job, int64_t position, Tensor rows);
  void start_choices(Job& job, std::span<const float> logits);
  void take_step(Job& job, Choice& choice);
  void fork(Job& job);
  void finish_if_over(Job& job);
  void sweep();  // removes the jobs that are over
  std::span<float> row(size_t i) { return {rows_.data() + i * vocab_, vocab_}; }

  Engine& engine_;
  SchedulerOptions options_;
  StateBudget budget_;
  size_t vocab_;
  std::vector<std::unique_ptr<Job>> jobs_;
  std::vector<float> rows_;                                   // logits of a pass, [rows, V]
  double decode_seconds_ = 0, seconds_per_prompt_token_ = 0;  // of late, smoothed; 0: not yet known
  SchedulerStats stats_;
};

}  // namespace linnet::runtime
