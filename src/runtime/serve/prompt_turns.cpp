#include "runtime/serve/prompt_turns.h"

#include <algorithm>
#include <numeric>

#include "model/pass.h"

namespace linnet::runtime {

std::vector<int64_t> prompt_turns(std::span<const Reading> prompts, int64_t room) {
  std::vector<size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto rank = [&](size_t i) { return prompts[i].arrival + prompts[i].total - prompts[i].done; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return rank(a) < rank(b); });
  std::vector<int64_t> counts(prompts.size(), 0);
  for (size_t i : order) {
    const Reading& p = prompts[i];
    int64_t end = std::min(p.stop, p.done + room);
    if (end < p.stop) end = end / model::kPassChunk * model::kPassChunk;
    if (end <= p.done) continue;
    counts[i] = end - p.done;
    room -= counts[i];
  }
  return counts;
}

}  // namespace linnet::runtime
