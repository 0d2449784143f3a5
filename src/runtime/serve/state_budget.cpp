#include "runtime/serve/state_budget.h"

#include <algorithm>

#include "core/arena.h"
#include "model/pass.h"

namespace linnet::runtime {
namespace {

constexpr int64_t kBlock = model::kPassChunk;  // rows of per-token state that are allocated and shared together

size_t free_bytes(const MemoryPlan& plan) {
  const auto available = static_cast<int64_t>(available_memory_bytes());
  return static_cast<size_t>(std::max<int64_t>(available - plan.weight_bytes - plan.activation_bytes, 0) / 8 * 7);
}

}  // namespace

StateBudget::StateBudget(const MemoryPlan& plan, size_t limit_bytes)
    : per_sequence_(plan.state_bytes_per_sequence),
      per_token_(plan.state_bytes_per_token),
      limit_(limit_bytes > 0 ? limit_bytes : free_bytes(plan)) {}

size_t StateBudget::bytes_of(int64_t prompt, int64_t longest, int64_t n) const {
  const int64_t rows = (longest + kBlock - 1) / kBlock * kBlock, shared = prompt / kBlock * kBlock;
  return static_cast<size_t>(n * per_sequence_ + per_token_ * (rows + (n - 1) * (rows - shared)));
}

}  // namespace linnet::runtime
