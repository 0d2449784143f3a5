// Batcher: the requests that have a place, advanced together a pass at a time. Not thread-safe: the scheduler's thread owns it.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "runtime/serve/job.h"
#include "runtime/serve/passes.h"
#include "runtime/serve/smoothed.h"
#include "runtime/serve/state_memory.h"

namespace linnet::runtime {

class Batcher {
 public:
  Batcher(Engine& engine, const SchedulerOptions& options);

  size_t bytes_of(const Request& request) const;  // of states, at most
  size_t bytes_limit() const { return memory_.limit(); }
  PrefixCache& cache() { return memory_.cache(); }
  // The longest state of these tokens that the cache holds, into an empty slot: returns the bytes that are reserved for it until it is
  // taken back. Throws InvalidArgument when there is none, Busy when running requests have the memory.
  size_t copy_state(std::span<const int32_t> tokens, StateSlot& slot);
  size_t lend_memory(int64_t n_tokens);  // for one, and to remember it; the same
  void remember(std::span<const int32_t> tokens, LentState& state);
  void take_back(size_t bytes) { memory_.release(bytes); }
  bool make_room(const Job& job);  // whether a place and memory are free for it; what is done for later gives way
  void admit(std::unique_ptr<Job> job);
  int64_t n_jobs() const { return static_cast<int64_t>(jobs_.size()); }
  bool idle() const { return jobs_.empty() && replies_.empty(); }

  // One round: ends what was cancelled or is late, then one pass over prompts and one over the sequences that generate. Without
  // requests: one pass that settles a reply.
  void round();
  void cut_all(Finish finish);  // and forgets what is done for later
  void fail_all(const std::exception_ptr& error);

  const SchedulerStats& stats();  // of what has a place

 private:
  // What was generated was computed by decode steps, and only states that prefill has computed are remembered. So a reply is read
  // once more when there is nothing else to do: the next turn then finds all of it but its last few tokens.
  struct Reply {
    std::vector<int32_t> tokens;  // prompt and what was drawn
    int64_t n_before = 0;         // of them, read by prefill passes already
    PromptReader reader;          // of all whole blocks
    size_t bytes = 0;             // reserved, once begun
  };

  size_t promise(size_t bytes);

  void prefill_pass();
  std::vector<int64_t> next_turns(std::span<Job* const> readers);
  void begin(Job& job);
  int64_t prompt_room() const;
  void score_rows(Job& job, int64_t position, Tensor rows);
  void start_choices(Job& job, std::span<const float> logits);
  void fork(Job& job);

  void decode_pass();
  void take_step(Job& job, Choice& choice);
  void finish_if_over(Job& job);

  void keep_for_settling(const Job& job);
  void settle_pass();
  bool begin_settling(Reply& reply);
  void drop_reply();

  void sweep();  // removes the jobs that are over
  model::Step step_of(model::Step kind) const { return options_.invariant ? kind : model::Step::cheapest; }
  std::span<float> row(size_t i) { return {rows_.data() + i * vocab_, vocab_}; }

  Engine& engine_;
  SchedulerOptions options_;
  StateMemory memory_;
  size_t vocab_;
  std::vector<std::unique_ptr<Job>> jobs_;
  std::deque<std::unique_ptr<Reply>> replies_;  // the latest last; the first may have begun
  std::vector<float> rows_;                     // logits of a pass, [rows, V]
  Smoothed decode_seconds_, seconds_per_prompt_token_;
  SchedulerStats stats_;
};

}  // namespace linnet::runtime
