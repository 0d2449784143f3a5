// State slot: everything a model remembers of one sequence. Verbs: init (reset), append, commit, rollback, copy, export, import,
// drop (the destructor). There is no verb that removes tokens from the middle or the front: a recurrent state cannot do that.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/arena.h"
#include "model/pass.h"

namespace linnet::runtime {

using LayerSpecs = std::vector<std::vector<model::StateSpec>>;  // per layer; see Mixer::state

// Tokens are appended in steps of begin_append / end_append around a forward pass (Engine does that). A tentative append keeps, from
// the first one on, a snapshot of the committed state; commit_all drops it, rollback returns to it.
class StateSlot {
 public:
  // An empty state. `specs` must outlive the slot. `identity` names the model and its weights; only slots of equal identity can be
  // copied or imported into each other.
  StateSlot(const LayerSpecs& specs, std::string identity);

  int64_t n_tokens() const { return n_tokens_; }  // committed and tentative
  int64_t n_tentative() const { return n_tokens_ - n_committed_; }
  const std::vector<int32_t>& tentative_tokens() const { return tentative_; }
  size_t bytes() const;  // of the state itself at its present length, snapshot included

  void reset() noexcept;
  // Grows the per-token tensors for `tokens` more and returns each layer's memory, valid until the next call that changes the slot.
  // Throws OutOfMemory, then unchanged; InvalidArgument for a committed append while tentative tokens stand.
  const std::vector<model::LayerState>& begin_append(std::span<const int32_t> tokens, bool tentative);
  void end_append() noexcept;   // the pass has run
  void fail_append() noexcept;  // the pass has thrown: what was written is unknown, so the slot becomes empty
  void commit_all() noexcept;   // tentative tokens become committed
  void rollback() noexcept;     // forget the tentative tokens

  void copy_from(
      const StateSlot& other);  // this := other, tentative part included; throws InvalidArgument for another identity

  // A file of formats::state_file form: identity, number of tokens, one section a state tensor, and the caller's `notes`.
  // Throws InvalidArgument while tentative tokens stand, IoError when it cannot be written (nothing half-written remains).
  void export_to(const std::filesystem::path& file, const std::map<std::string, std::string>& notes) const;
  // Replaces the state by the file's and returns its notes. Throws FormatError for a foreign, truncated, corrupt or mismatching
  // file; the slot is then untouched.
  std::map<std::string, std::string> import_from(const std::filesystem::path& file);

 private:
  void reserve_rows(int64_t rows);
  void take_snapshot();
  template <class Visit>
  void for_each(Visit visit) const {  // visit(layer, index, spec, flat index)
    size_t flat = 0;
    for (size_t layer = 0; layer < specs_.size(); ++layer)
      for (size_t i = 0; i < specs_[layer].size(); ++i) visit(layer, i, specs_[layer][i], flat++);
  }

  const LayerSpecs& specs_;
  std::string identity_;
  std::vector<Buffer> tensors_;   // flat over layers and their specs
  std::vector<Buffer> snapshot_;  // same order, per-sequence tensors only; empty when nothing is tentative
  std::vector<model::LayerState> layer_states_;
  std::vector<int32_t> tentative_;
  int64_t n_tokens_ = 0, n_committed_ = 0, n_appending_ = 0;
  int64_t row_capacity_ = 0;
};

}  // namespace linnet::runtime
