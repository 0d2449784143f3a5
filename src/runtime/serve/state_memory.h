// StateMemory: the memory of all states. It is promised to requests before they use it, and the promises never exceed the limit; what is
// not promised is the prefix cache's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/engine.h"
#include "runtime/prefix_cache.h"

namespace linnet::runtime {

class StateMemory {
 public:
  // Sets the limit of the engine's states, and lifts it in the end. limit_bytes 0: what is free beside weights and activations,
  // less an eighth.
  StateMemory(Engine& engine, size_t limit_bytes, bool prefix_cache);
  ~StateMemory();
  StateMemory(const StateMemory&) = delete;
  StateMemory& operator=(const StateMemory&) = delete;

  // The most that `n` sequences of up to `longest` tokens that share a prompt of `prompt` can come to hold.
  size_t bytes_of(int64_t prompt, int64_t longest, int64_t n) const;

  bool fits(size_t bytes) const { return bytes <= limit_ - reserved_; }
  void reserve(size_t bytes);  // which fit
  void release(size_t bytes);
  size_t limit() const { return limit_; }
  size_t reserved() const { return reserved_; }

  bool caches() const { return caches_; }
  PrefixCache& cache() { return cache_; }
  // Tokens between the states that are kept of a long prompt: they then take about as much as its per-token state.
  int64_t spacing() const;

 private:
  StatePool& pool_;
  bool caches_;
  size_t limit_, reserved_ = 0;
  PrefixCache cache_;
};

}  // namespace linnet::runtime
