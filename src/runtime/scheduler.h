// Scheduler: continuous batching. Requests of many clients advance together on one engine, each as if it were alone: with
// `invariant` its tokens and log-probabilities are, bit for bit, those of the same request on an idle scheduler with an empty cache.
// One thread of its own runs the model; every method may be called from any thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/errors.h"
#include "core/function_ref.h"
#include "runtime/engine.h"
#include "runtime/prefix_cache.h"
#include "runtime/serve/stream.h"

namespace linnet::runtime {

struct SchedulerOptions {
  int64_t max_streams = 64;  // sequences that generate at once
  int64_t max_queue = 256;   // requests that wait for a place beyond them
  size_t state_bytes =
      0;  // memory of all states and of the prefix cache; 0: what is free beside weights and activations, less a
          // reserve
  bool prefix_cache = true;
  bool invariant = true;  // false: kernels are chosen by what is cheapest for the batch at hand
};

struct Request {
  std::string id;               // for logs
  std::vector<int32_t> prompt;  // at least one token
  GenerateOptions options;      // options.sampling.seed of choice i > 0 is mix64(seed + i)
  int64_t n = 1;                // choices, drawn from one reading of the prompt
  int64_t top_logprobs = -1;    // -1: no scores; 0: of the drawn tokens; more: so many alternatives, too
  bool score_prompt =
      false;  // scores of the prompt's tokens, too (all but the first); the prefix cache is not read then
  // The request is cut here, with Finish::timed_out, also while it waits.
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

// A submission refused because there is no room now, or because the scheduler takes no more.
class Busy : public Error {
 public:
  Busy(const std::string& text, double seconds, bool closing)
      : Error(text), retry_after_seconds(seconds), draining(closing) {}
  double retry_after_seconds;  // when a place in the queue is likely to be free, from the pace of the last requests
  bool draining;
};

struct SchedulerStats {
  int64_t waiting = 0, running = 0, sequences = 0;  // requests without and with a place; choices of the latter
  int64_t submitted = 0, refused = 0;               // requests so far; refused: as Busy
  int64_t finished = 0, cancelled = 0, timed_out = 0, failed = 0;
  int64_t tokens_read = 0, tokens_generated = 0;  // read: by prefill passes, for prompts and for settling replies
  int64_t replies_to_settle = 0;
  int64_t tokens_settled = 0;  // of tokens_read: replies read once more for the cache
  int64_t prefill_passes = 0, decode_passes = 0;
  double prefill_seconds = 0, decode_seconds = 0;                // in these passes
  size_t bytes_limit = 0, bytes_reserved = 0, bytes_cached = 0;  // of states
  int64_t cache_hits = 0, cache_misses = 0,
          cache_tokens = 0;  // of prompts of more than kCacheBlock tokens; what hits saved
  int64_t cache_entries = 0, cache_evictions = 0;
};

// A state outside of the scheduler, for a file to be written from it, or read into it, while others generate. Its memory is promised to
// it as to a request, and comes back when it goes. The scheduler outlives it.
class LentState {
 public:
  using GiveBack = std::function<void(size_t bytes)>;
  LentState(StateSlot state, size_t bytes, GiveBack give_back)
      : slot_(std::move(state)), bytes_(bytes), give_back_(std::move(give_back)) {}
  ~LentState() {
    slot_.reset();
    give_back_(bytes_);
  }
  LentState(const LentState&) = delete;
  LentState& operator=(const LentState&) = delete;

  StateSlot& slot() { return slot_; }

 private:
  friend class Batcher;
  StateSlot slot_;
  size_t bytes_;  // promised
  GiveBack give_back_;
};

class Scheduler {
 public:
  static constexpr int kMostLent = 4;  // states

  // Both must outlive it; the engine is the scheduler's alone while it lives. Throws InvalidArgument for options out of range, or an
  // engine whose passes are shorter than a chunk.
  Scheduler(Engine& engine, const formats::Tokenizer& tokenizer, SchedulerOptions options);
  ~Scheduler();  // what still runs ends with Finish::cancelled
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Throws InvalidArgument when the request can never run (an empty prompt, ids or sampling parameters out of range, prompt + 1 beyond
  // the context, more choices than max_streams, more memory than there is for states); Busy.
  std::unique_ptr<Stream> submit(Request request);

  // No new requests; returns when all streams have ended, at the latest soon after `until`: those left then end with Finish::cancelled.
  void drain(std::chrono::steady_clock::time_point until);

  // Runs `body` with the prefix cache between two passes, and returns when it has run; what it throws comes back. Throws InvalidArgument
  // when there is no cache.
  void with_cache(FunctionRef<void(PrefixCache& cache)> body);

  // A copy of the longest state of these tokens that the prefix cache holds, made between two passes. Throws InvalidArgument when there
  // is no cache, or no such state in it; Busy when kMostLent are out, or requests have the memory.
  std::unique_ptr<LentState> copy_state(std::span<const int32_t> tokens);
  // An empty state with memory for so many tokens, which what is cached gives way to. Throws InvalidArgument when there is no cache,
  // OutOfMemory for more than there can be, Busy as above.
  std::unique_ptr<LentState> lend_state(int64_t n_tokens);
  // Puts the state, which is of these tokens, into the cache, where the next prompt that begins alike finds it.
  void remember(std::span<const int32_t> tokens, std::unique_ptr<LentState> state);

  SchedulerStats stats() const;

 private:
  class Core;
  std::unique_ptr<Core> core_;
};

}  // namespace linnet::runtime
