// Memory of states. Per-token state lies in blocks of kStateBlock rows of every layer, which slots and the prefix cache share by
// reference; per-sequence state in one piece for all layers. A pool of a model hands out both and counts them.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "model/pass.h"

namespace linnet::runtime {

using LayerSpecs = std::vector<std::vector<model::StateSpec>>;  // per layer; see Mixer::state

class StatePool;

// A reference to a block; the block goes back to its pool with the last of them. References may live in different threads; who writes
// rows must hold the only one.
class StateBlock {
 public:
  StateBlock() = default;
  StateBlock(const StateBlock& other) noexcept;
  StateBlock(StateBlock&& other) noexcept : body_(std::exchange(other.body_, nullptr)) {}
  StateBlock& operator=(StateBlock other) noexcept {
    std::swap(body_, other.body_);
    return *this;
  }
  ~StateBlock();

  std::byte* data() const { return body_->memory.data(); }
  bool shared() const noexcept { return body_->references.load(std::memory_order_acquire) > 1; }
  explicit operator bool() const { return body_ != nullptr; }
  bool operator==(const StateBlock& other) const { return body_ == other.body_; }

  // One holder may mark its block as idle wealth: memory that could be freed as soon as nobody else uses it (the prefix cache does).
  // StatePool::idle_bytes counts the marked blocks that have one reference. Unmark before that reference goes.
  void mark_idle() const noexcept { mark(true); }
  void unmark_idle() const noexcept { mark(false); }

 private:
  friend class StatePool;
  struct Body {
    StatePool& pool;
    Buffer memory;
    std::atomic<int64_t> references{1};  // changed under the pool's lock
    bool idle = false;                   // under the pool's lock
  };
  explicit StateBlock(Body* body) : body_(body) {}
  void mark(bool idle) const noexcept;

  Body* body_ = nullptr;
};

// All per-sequence tensors of one sequence; one owner.
class SequenceState {
 public:
  SequenceState() = default;
  SequenceState(SequenceState&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), memory_(std::move(other.memory_)) {}
  SequenceState& operator=(SequenceState other) noexcept {
    std::swap(pool_, other.pool_), std::swap(memory_, other.memory_);
    return *this;
  }
  ~SequenceState();

  std::byte* data() const { return memory_.data(); }
  explicit operator bool() const { return pool_ != nullptr; }

 private:
  friend class StatePool;
  SequenceState(StatePool* pool, Buffer memory) : pool_(pool), memory_(std::move(memory)) {}

  StatePool* pool_ = nullptr;
  Buffer memory_;
};

// Hands out memory up to a limit, and keeps what comes back for the next. Outlives all that it handed out. Thread-safe.
class StatePool {
 public:
  // `specs` must outlive the pool. `identity` names the model and its weights: states of one pool can be copied into each other.
  StatePool(const LayerSpecs& specs, std::string identity);
  StatePool(const StatePool&) = delete;
  StatePool& operator=(const StatePool&) = delete;

  const LayerSpecs& specs() const { return specs_; }
  const std::string& identity() const { return identity_; }

  size_t block_bytes() const { return block_bytes_; }  // kStateBlock rows of every per-token tensor; 0: there is none
  size_t sequence_bytes() const { return sequence_bytes_; }  // every per-sequence tensor
  // Where a tensor begins: a per-token one in a block, a per-sequence one in a SequenceState.
  size_t offset(size_t layer, size_t i) const { return offsets_[layer][i]; }
  // What one sequence of so many tokens takes when it shares nothing.
  size_t bytes_of(int64_t n_tokens) const {
    return sequence_bytes_ +
           static_cast<size_t>((n_tokens + model::kStateBlock - 1) / model::kStateBlock) * block_bytes_;
  }

  // What the memory holds is not specified. Throw OutOfMemory beyond the limit.
  StateBlock take_block();
  SequenceState take_sequence();

  size_t bytes() const;       // handed out now
  size_t peak_bytes() const;  // the most so far
  size_t idle_bytes() const;  // see StateBlock::mark_idle
  size_t limit() const;       // of bytes(); SIZE_MAX at first
  void set_limit(size_t bytes);
  void release_spare() noexcept;  // what came back goes to the system

  void set_fill(std::byte value);  // for tests: what memory holds when it is handed out

 private:
  friend class StateBlock;
  friend class SequenceState;
  Buffer take(std::vector<Buffer>& spare, size_t bytes, const char* what);
  void give_back(std::vector<Buffer>& spare, Buffer memory) noexcept;
  void drop_spare() noexcept;  // under the lock

  const LayerSpecs& specs_;
  std::string identity_;
  std::vector<std::vector<size_t>> offsets_;
  size_t block_bytes_ = 0, sequence_bytes_ = 0;

  mutable std::mutex mutex_;
  std::vector<Buffer> spare_blocks_, spare_sequences_;
  size_t bytes_ = 0, peak_ = 0, spare_ = 0, n_idle_ = 0, limit_ = SIZE_MAX;
  std::optional<std::byte> fill_;
};

}  // namespace linnet::runtime
