// PromptReader: tokens on their way into a state by prefill passes: from what the prefix cache remembers of them, with stops where
// states are to be remembered.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "runtime/serve/state_memory.h"

namespace linnet::runtime {

class PromptReader {
 public:
  PromptReader() = default;
  explicit PromptReader(std::span<const int32_t> tokens) : tokens_(tokens) {}  // which outlive it

  int64_t n_tokens() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t n_read() const { return n_read_; }  // in the state, remembered ones included
  bool begun() const { return slot_ != nullptr; }
  bool done() const { return n_read_ == n_tokens(); }
  int64_t next_stop() const { return stops_.empty() ? n_tokens() : stops_.back(); }

  // Makes the state, as far as the cache knows the tokens, and returns how many it knows. Whole: the state behind the last token is
  // wanted, too (their number is then a multiple of kCacheBlock).
  enum class From : uint8_t { nothing, cache };
  enum class Keep : uint8_t { last_cut, whole };
  int64_t begin(Engine& engine, StateMemory& memory, From from, Keep keep = Keep::last_cut);

  Append append(int64_t count, Want want, model::Step step) const;
  void took(int64_t count, StateMemory& memory);  // the pass has run

  const StateSlot& slot() const { return *slot_; }
  std::unique_ptr<StateSlot> take_slot() { return std::move(slot_); }
  void drop() { slot_.reset(); }

 private:
  std::span<const int32_t> tokens_;
  std::unique_ptr<StateSlot> slot_;
  int64_t n_read_ = 0;
  std::vector<int64_t> stops_;  // descending; multiples of kCacheBlock beyond n_read_
};

}  // namespace linnet::runtime
