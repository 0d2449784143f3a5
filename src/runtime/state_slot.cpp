#include "runtime/state_slot.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {

using model::Lifetime;
using model::StateSpec;

StateSlot::StateSlot(const LayerSpecs& specs, std::string identity) : specs_(specs), identity_(std::move(identity)) {
  layer_states_.resize(specs_.size());
  for_each([&](size_t layer, size_t i, const StateSpec& spec, size_t) {
    tensors_.emplace_back(spec.lifetime == Lifetime::per_sequence ? static_cast<size_t>(spec.bytes()) : 0);
    layer_states_[layer][i] = tensors_.back().data();
  });
}

size_t StateSlot::bytes() const {
  size_t sum = 0;
  for_each([&](size_t, size_t, const StateSpec& spec, size_t) {
    const int64_t copies = spec.lifetime == Lifetime::per_token ? n_tokens_ : snapshot_.empty() ? 1 : 2;
    sum += static_cast<size_t>(copies * spec.bytes());
  });
  return sum;
}

void StateSlot::reset() noexcept {
  for_each([&](size_t, size_t, const StateSpec& spec, size_t flat) {
    if (spec.lifetime == Lifetime::per_sequence) tensors_[flat].clear();
  });
  snapshot_.clear(), tentative_.clear();
  n_tokens_ = n_committed_ = n_appending_ = 0;
}

void StateSlot::reserve_rows(int64_t rows) {
  if (rows <= row_capacity_) return;
  constexpr int64_t kFirstRows = 256;
  const int64_t capacity = std::max({rows, 2 * row_capacity_, kFirstRows});
  for_each([&](size_t layer, size_t i, const StateSpec& spec, size_t flat) {
    if (spec.lifetime != Lifetime::per_token) return;
    tensors_[flat].grow(static_cast<size_t>(capacity * spec.bytes()));
    layer_states_[layer][i] = tensors_[flat].data();
  });
  row_capacity_ = capacity;
}

void StateSlot::take_snapshot() {
  std::vector<Buffer> copy;
  for_each([&](size_t, size_t, const StateSpec& spec, size_t flat) {
    const size_t bytes = spec.lifetime == Lifetime::per_sequence ? static_cast<size_t>(spec.bytes()) : 0;
    copy.emplace_back(bytes);
    if (bytes > 0) std::memcpy(copy.back().data(), tensors_[flat].data(), bytes);
  });
  snapshot_ = std::move(copy);
}

const std::vector<model::LayerState>& StateSlot::begin_append(std::span<const int32_t> tokens, bool tentative) {
  if (!tentative && n_tentative() > 0)
    throw InvalidArgument(cat("state slot: committed append while ", n_tentative(),
                              " tentative tokens stand; commit or roll back first"));
  reserve_rows(n_tokens_ + static_cast<int64_t>(tokens.size()));
  if (tentative) {
    if (snapshot_.empty()) take_snapshot();
    tentative_.insert(tentative_.end(), tokens.begin(), tokens.end());
  }
  n_appending_ = static_cast<int64_t>(tokens.size());
  return layer_states_;
}

void StateSlot::end_append() noexcept {
  n_tokens_ += n_appending_;
  if (snapshot_.empty()) n_committed_ = n_tokens_;
  n_appending_ = 0;
}

void StateSlot::fail_append() noexcept { reset(); }

void StateSlot::commit_all() noexcept {
  snapshot_.clear(), tentative_.clear();
  n_committed_ = n_tokens_;
}

void StateSlot::rollback() noexcept {
  if (snapshot_.empty()) return;
  for_each([&](size_t layer, size_t i, const StateSpec& spec, size_t flat) {
    if (spec.lifetime != Lifetime::per_sequence) return;  // rows past n_committed are simply written again
    std::swap(tensors_[flat], snapshot_[flat]);
    layer_states_[layer][i] = tensors_[flat].data();
  });
  snapshot_.clear(), tentative_.clear();
  n_tokens_ = n_committed_;
}

void StateSlot::copy_from(const StateSlot& other) {
  if (identity_ != other.identity_ || &specs_ != &other.specs_)
    throw InvalidArgument(cat("state slot: copy: expected a state of ", identity_, ", got one of ", other.identity_));
  if (this == &other) return;
  reserve_rows(other.n_tokens_);
  for_each([&](size_t, size_t, const StateSpec& spec, size_t flat) {
    const int64_t copies = spec.lifetime == Lifetime::per_token ? other.n_tokens_ : 1;
    if (copies > 0)
      std::memcpy(tensors_[flat].data(), other.tensors_[flat].data(), static_cast<size_t>(copies * spec.bytes()));
  });
  std::vector<Buffer> snapshot;
  for (const Buffer& b : other.snapshot_) {
    snapshot.emplace_back(b.size());
    if (b.size() > 0) std::memcpy(snapshot.back().data(), b.data(), b.size());
  }
  snapshot_ = std::move(snapshot);
  tentative_ = other.tentative_;
  n_tokens_ = other.n_tokens_, n_committed_ = other.n_committed_;
}

}  // namespace linnet::runtime
