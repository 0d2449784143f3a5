#include "runtime/serve/state_memory.h"

#include <algorithm>

#include "core/arena.h"

namespace linnet::runtime {
namespace {

constexpr int64_t kBlock = model::kStateBlock;

size_t free_bytes(const Engine& engine) {
  const MemoryPlan plan = engine.memory_plan();
  const auto available = static_cast<int64_t>(available_memory_bytes());
  return static_cast<size_t>(std::max<int64_t>(available - plan.weight_bytes - plan.activation_bytes, 0) / 8 * 7);
}

}  // namespace

StateMemory::StateMemory(Engine& engine, size_t limit_bytes, bool prefix_cache)
    : pool_(engine.states()),
      caches_(prefix_cache),
      limit_(limit_bytes > 0 ? limit_bytes : free_bytes(engine)),
      cache_(pool_, prefix_cache ? limit_ : 0) {
  pool_.set_limit(limit_);
}

StateMemory::~StateMemory() { pool_.set_limit(SIZE_MAX); }

size_t StateMemory::bytes_of(int64_t prompt, int64_t longest, int64_t n) const {
  const int64_t blocks = (longest + kBlock - 1) / kBlock, shared = prompt / kBlock;
  return static_cast<size_t>(n) * pool_.sequence_bytes() +
         static_cast<size_t>(blocks + (n - 1) * (blocks - shared)) * pool_.block_bytes();
}

void StateMemory::reserve(size_t bytes) {
  reserved_ += bytes;
  if (caches_) cache_.set_capacity(limit_ - reserved_);
}

void StateMemory::release(size_t bytes) {
  reserved_ -= bytes;
  if (caches_) cache_.set_capacity(limit_ - reserved_);
}

int64_t StateMemory::spacing() const {
  constexpr int64_t kLeastBlocks = 4, kBlocksWithoutRows = 16;
  if (pool_.block_bytes() == 0) return kBlocksWithoutRows * kBlock;
  const auto blocks = static_cast<int64_t>((pool_.sequence_bytes() + pool_.block_bytes() - 1) / pool_.block_bytes());
  return std::max(blocks, kLeastBlocks) * kBlock;
}

}  // namespace linnet::runtime
