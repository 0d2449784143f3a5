#include "runtime/state_slot.h"

#include <algorithm>
#include <cstring>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {

using model::kStateBlock;
using model::Lifetime;
using model::StateSpec;

namespace {

size_t blocks_of(int64_t rows) { return static_cast<size_t>((rows + kStateBlock - 1) / kStateBlock); }

}  // namespace

size_t StateSlot::bytes() const {
  size_t sum = 0;
  for_each_state(pool_->specs(), [&](size_t, size_t, const StateSpec& spec) {
    const int64_t copies = spec.lifetime == Lifetime::per_token ? n_tokens_ : snapshot_ ? 2 : 1;
    sum += static_cast<size_t>(copies * spec.bytes());
  });
  return sum;
}

StateSlot::Held StateSlot::held() const {
  Held held;
  for (const SequenceState* s : {&sequence_, &snapshot_})
    if (*s) held.own += pool_->sequence_bytes();
  for (const StateBlock& block : blocks_) (block.shared() ? held.shared : held.own) += pool_->block_bytes();
  return held;
}

void StateSlot::reset() noexcept { replace(0, {}, {}); }

// Memory for a copy of `from`, unless there is some in `own`.
SequenceState StateSlot::memory_for(const SequenceState& from, const SequenceState& own) const {
  return from && !own ? pool_->take_sequence() : SequenceState();
}

SequenceState StateSlot::copied(SequenceState to, const SequenceState& from) const noexcept {
  if (!from) return {};
  if (pool_->sequence_bytes() > 0) std::memcpy(to.data(), from.data(), pool_->sequence_bytes());
  return to;
}

SequenceState StateSlot::empty_sequence() const {
  SequenceState to = pool_->take_sequence();
  if (pool_->sequence_bytes() > 0) std::memset(to.data(), 0, pool_->sequence_bytes());
  return to;
}

SequenceState StateSlot::copy_of_sequence() const {
  return sequence_ ? copied(pool_->take_sequence(), sequence_) : empty_sequence();
}

// A copy of the block that the next row goes to, when others hold it as well; else none.
StateBlock StateSlot::own_last_block() const {
  const int64_t filled = n_tokens_ % kStateBlock;
  if (filled == 0 || blocks_.empty() || !blocks_.back().shared()) return {};
  StateBlock own = pool_->take_block();
  for_each_state(pool_->specs(), [&](size_t layer, size_t i, const StateSpec& spec) {
    if (spec.lifetime != Lifetime::per_token) return;
    const size_t at = pool_->offset(layer, i);
    std::memcpy(own.data() + at, blocks_.back().data() + at, static_cast<size_t>(filled * spec.bytes()));
  });
  return own;
}

std::span<const StateBlock> StateSlot::blocks() const {
  const size_t used = pool_->block_bytes() > 0 ? blocks_of(n_tokens_) : 0;
  return std::span(blocks_).first(used);
}

void StateSlot::trim() noexcept {
  const size_t used = pool_->block_bytes() > 0 ? blocks_of(n_tokens_) : 0;
  while (blocks_.size() > used) blocks_.pop_back();
  n_pointed_ = std::min(n_pointed_, used);
}

void StateSlot::point() {
  size_t table = 0;
  layer_states_.resize(pool_->specs().size());
  for_each_state(pool_->specs(), [&](size_t layer, size_t i, const StateSpec& spec) {
    const size_t at = pool_->offset(layer, i);
    if (spec.lifetime == Lifetime::per_sequence) {
      layer_states_[layer][i] = {.data = sequence_.data() + at};
      return;
    }
    if (table == tables_.size()) tables_.emplace_back();
    std::vector<std::byte*>& rows = tables_[table++];
    rows.resize(blocks_.size());
    for (size_t b = n_pointed_; b < blocks_.size(); ++b) rows[b] = blocks_[b].data() + at;
    layer_states_[layer][i] = {.blocks = rows.data()};
  });
  n_pointed_ = blocks_.size();
}

const std::vector<model::LayerState>& StateSlot::begin_append(std::span<const int32_t> tokens, bool tentative) {
  if (!tentative && n_tentative() > 0)
    throw InvalidArgument(cat("state slot: committed append while ", n_tentative(),
                              " tentative tokens stand; commit or roll back first"));
  // An append that was begun and not ended, as when a neighbour in the batch found no memory, has left nothing but these.
  trim();
  tentative_.resize(static_cast<size_t>(n_tentative()));
  if (n_tentative() == 0) snapshot_ = {};

  const auto n_new = static_cast<int64_t>(tokens.size());
  const size_t n_blocks = pool_->block_bytes() > 0 ? blocks_of(n_tokens_ + n_new) : 0;
  if (!sequence_) sequence_ = empty_sequence();
  SequenceState snapshot = tentative && !snapshot_ ? copy_of_sequence() : SequenceState();
  StateBlock last = n_new > 0 ? own_last_block() : StateBlock();
  std::vector<StateBlock> more;
  while (blocks_.size() + more.size() < n_blocks) more.push_back(pool_->take_block());
  blocks_.reserve(n_blocks);
  tentative_.reserve(tentative_.size() + tokens.size());

  if (last) blocks_.back() = std::move(last), n_pointed_ = std::min(n_pointed_, blocks_.size() - 1);
  for (StateBlock& block : more) blocks_.push_back(std::move(block));
  if (snapshot) snapshot_ = std::move(snapshot);
  point();
  if (tentative) tentative_.insert(tentative_.end(), tokens.begin(), tokens.end());
  n_appending_ = n_new;
  return layer_states_;
}

void StateSlot::end_append() noexcept {
  n_tokens_ += n_appending_;
  if (!snapshot_) n_committed_ = n_tokens_;
  n_appending_ = 0;
}

void StateSlot::fail_append() noexcept { reset(); }

void StateSlot::commit_all() noexcept {
  snapshot_ = {}, tentative_.clear();
  n_committed_ = n_tokens_;
}

void StateSlot::rollback() noexcept {
  if (!snapshot_) return;
  sequence_ = std::move(snapshot_);
  tentative_.clear();
  n_tokens_ = n_committed_;
  trim();
}

void StateSlot::replace(int64_t n_tokens, std::vector<StateBlock> blocks, SequenceState sequence) noexcept {
  blocks_ = std::move(blocks), sequence_ = std::move(sequence), snapshot_ = {};
  tentative_.clear();
  n_tokens_ = n_committed_ = n_tokens;
  n_appending_ = 0, n_pointed_ = 0;
}

void StateSlot::copy_from(const StateSlot& other) {
  if (pool_ != other.pool_)
    throw InvalidArgument(cat("state slot: copy: expected a state of the same pool, of ", pool_->identity(),
                              ", got one of another, of ", other.pool_->identity()));
  if (this == &other) return;
  const std::span<const StateBlock> rows = other.blocks();
  std::vector<StateBlock> blocks(rows.begin(), rows.end());
  std::vector<int32_t> tentative(other.tentative_.begin(), other.tentative_.begin() + other.n_tentative());
  SequenceState sequence = memory_for(other.sequence_, sequence_), snapshot = memory_for(other.snapshot_, snapshot_);
  if (!sequence) sequence = std::move(sequence_);
  if (!snapshot) snapshot = std::move(snapshot_);
  replace(other.n_tokens_, std::move(blocks), copied(std::move(sequence), other.sequence_));
  snapshot_ = copied(std::move(snapshot), other.snapshot_), tentative_ = std::move(tentative);
  n_committed_ = other.n_committed_;
}

void StateSlot::assign(int64_t n_tokens, std::vector<StateBlock> blocks, const SequenceState& sequence) {
  SequenceState own = memory_for(sequence, sequence_);
  if (!own) own = std::move(sequence_);
  replace(n_tokens, std::move(blocks), copied(std::move(own), sequence));
}

}  // namespace linnet::runtime
