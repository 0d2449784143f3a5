#include "runtime/state_block.h"

#include <algorithm>
#include <cstring>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {

using model::Lifetime;

StateBlock::StateBlock(const StateBlock& other) noexcept : body_(other.body_) {
  if (!body_) return;
  const std::lock_guard lock(body_->pool.mutex_);
  if (body_->references++ == 1 && body_->idle) --body_->pool.n_idle_;
}

StateBlock::~StateBlock() {
  if (!body_) return;
  StatePool& pool = body_->pool;
  {
    const std::lock_guard lock(pool.mutex_);
    const int64_t before = body_->references--;
    if (before == 2 && body_->idle) ++pool.n_idle_;
    if (before > 1) return;
  }
  pool.give_back(pool.spare_blocks_, std::move(body_->memory));
  delete body_;
}

void StateBlock::mark(bool idle) const noexcept {
  StatePool& pool = body_->pool;
  const std::lock_guard lock(pool.mutex_);
  if (body_->idle != idle && body_->references == 1) idle ? ++pool.n_idle_ : --pool.n_idle_;
  body_->idle = idle;
}

SequenceState::~SequenceState() {
  if (pool_) pool_->give_back(pool_->spare_sequences_, std::move(memory_));
}

StatePool::StatePool(const LayerSpecs& specs, std::string identity) : specs_(specs), identity_(std::move(identity)) {
  for (const auto& layer : specs_) {
    std::vector<size_t>& offsets = offsets_.emplace_back();
    for (const model::StateSpec& spec : layer) {
      const bool rows = spec.lifetime == Lifetime::per_token;
      size_t& end = rows ? block_bytes_ : sequence_bytes_;
      offsets.push_back(end);
      end += aligned_size(static_cast<size_t>(spec.bytes() * (rows ? model::kStateBlock : 1)));
    }
  }
}

StateBlock StatePool::take_block() {
  return StateBlock(new StateBlock::Body{*this, take(spare_blocks_, block_bytes_, "a block of")});
}

SequenceState StatePool::take_sequence() {
  return {this, take(spare_sequences_, sequence_bytes_, "the per-sequence tensors of")};
}

Buffer StatePool::take(std::vector<Buffer>& spare, size_t bytes, const char* what) {
  const std::lock_guard lock(mutex_);
  if (bytes > limit_ || bytes_ > limit_ - bytes)
    throw OutOfMemory(cat("states: ", what, " ", bytes_text(bytes), " would make ", bytes_text(bytes_ + bytes),
                          ", but the limit is ", bytes_text(limit_)));
  Buffer memory;
  if (!spare.empty()) {
    memory = std::move(spare.back());
    spare.pop_back();
    spare_ -= bytes;
  } else {
    if (spare_ > limit_ - bytes_ - bytes) drop_spare();  // memory of the other kind would come on top of the limit
    memory = Buffer(bytes);
  }
  bytes_ += bytes;
  peak_ = std::max(peak_, bytes_);
  if (fill_ && bytes > 0) std::memset(memory.data(), static_cast<int>(*fill_), bytes);
  return memory;
}

void StatePool::give_back(std::vector<Buffer>& spare, Buffer memory) noexcept {
  const std::lock_guard lock(mutex_);
  const size_t bytes = memory.size();
  bytes_ -= bytes;
  try {
    spare.push_back(std::move(memory));
    spare_ += bytes;
  } catch (const std::bad_alloc&) {  // then the system has it back
  }
}

void StatePool::drop_spare() noexcept {
  spare_blocks_.clear(), spare_sequences_.clear();
  spare_ = 0;
}

void StatePool::release_spare() noexcept {
  const std::lock_guard lock(mutex_);
  drop_spare();
}

size_t StatePool::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

size_t StatePool::peak_bytes() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

size_t StatePool::idle_bytes() const {
  const std::lock_guard lock(mutex_);
  return n_idle_ * block_bytes_;
}

size_t StatePool::limit() const {
  const std::lock_guard lock(mutex_);
  return limit_;
}

void StatePool::set_limit(size_t bytes) {
  const std::lock_guard lock(mutex_);
  limit_ = bytes;
}

void StatePool::set_fill(std::byte value) {
  const std::lock_guard lock(mutex_);
  fill_ = value;
}

}  // namespace linnet::runtime
