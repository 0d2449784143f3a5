// StateBudget: memory of states, promised before it is used. The promises never exceed the limit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/memory_plan.h"

namespace linnet::runtime {

class StateBudget {
 public:
  // limit_bytes 0: what is free beside weights and activations, less an eighth.
  StateBudget(const MemoryPlan& plan, size_t limit_bytes);

  // The most that `n` sequences of up to `longest` tokens that share a prompt of `prompt` can come to hold.
  size_t bytes_of(int64_t prompt, int64_t longest, int64_t n) const;

  bool fits(size_t bytes) const { return bytes <= limit_ - reserved_; }
  void reserve(size_t bytes) { reserved_ += bytes; }
  void release(size_t bytes) { reserved_ -= bytes; }
  size_t limit() const { return limit_; }
  size_t reserved() const { return reserved_; }

 private:
  int64_t per_sequence_, per_token_;
  size_t limit_, reserved_ = 0;
};

}  // namespace linnet::runtime
