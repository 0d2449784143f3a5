#include "runtime/serve/prompt_reader.h"

#include <algorithm>

#include "core/errors.h"

namespace linnet::runtime {

// States are kept every so many tokens, where this prompt leaves others that are known, and at the last multiple of the block, from
// which the same prompt, and what continues it, is read next.
int64_t PromptReader::begin(Engine& engine, StateMemory& memory, From from, Keep keep) {
  slot_ = std::make_unique<StateSlot>(engine.new_slot());
  if (!memory.caches()) return 0;
  PrefixCache& cache = memory.cache();
  std::vector<int32_t> longer;  // the cache leaves a token to read; here it need not
  if (keep == Keep::whole) longer.assign(tokens_.begin(), tokens_.end()), longer.push_back(0);
  if (from == From::cache) try {
      n_read_ = cache.restore(keep == Keep::whole ? longer : tokens_, *slot_);
    } catch (const OutOfMemory&) {  // then it is read
    }
  const int64_t spacing = memory.spacing(), n = n_tokens();
  stops_ = {(keep == Keep::whole ? n : n - 1) / kCacheBlock * kCacheBlock, cache.common_prefix(tokens_)};
  for (int64_t at = spacing; at < n; at += spacing) stops_.push_back(at);
  std::sort(stops_.begin(), stops_.end(), std::greater<>());
  stops_.erase(std::unique(stops_.begin(), stops_.end()), stops_.end());
  while (!stops_.empty() && stops_.back() <= n_read_) stops_.pop_back();
  return n_read_;
}

Append PromptReader::append(int64_t count, Want want, model::Step step) const {
  const auto tokens = tokens_.subspan(static_cast<size_t>(n_read_), static_cast<size_t>(count));
  return {.slot = slot_.get(), .tokens = tokens, .want = want, .step = step};
}

void PromptReader::took(int64_t count, StateMemory& memory) {
  n_read_ += count;
  if (stops_.empty() || stops_.back() != n_read_) return;
  stops_.pop_back();
  try {
    memory.cache().insert(tokens_.first(static_cast<size_t>(n_read_)), *slot_);
  } catch (const OutOfMemory&) {  // not remembered, then
  }
}

}  // namespace linnet::runtime
