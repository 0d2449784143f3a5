// State slot: everything a model remembers of one sequence. Verbs: init (reset), append, commit, rollback, copy, export, import,
// drop (the destructor). There is no verb that removes tokens from the middle or the front: a recurrent state cannot do that.
// Its memory comes from a StatePool. Copies share the blocks of per-token state; a block that others hold is copied before it is
// written. Slots that share blocks may live in different threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "runtime/state_block.h"

namespace linnet::formats {
struct StateHeader;
class StateFile;
}  // namespace linnet::formats

namespace linnet::runtime {

// Tokens are appended in steps of begin_append / end_append around a forward pass (Engine does that). A tentative append keeps, from
// the first one on, a snapshot of the committed state; commit_all drops it, rollback returns to it.
class StateSlot {
 public:
  // An empty state; it holds no memory yet. Only slots of one pool can be copied into each other, and only files of its identity
  // imported.
  explicit StateSlot(StatePool& pool) : pool_(&pool) {}

  const StatePool& pool() const { return *pool_; }
  int64_t n_tokens() const { return n_tokens_; }  // committed and tentative
  int64_t n_tentative() const { return n_tokens_ - n_committed_; }
  const std::vector<int32_t>& tentative_tokens() const { return tentative_; }
  size_t bytes() const;  // of the state itself at its present length, snapshot included
  struct Held {
    size_t own = 0, shared = 0;
  };
  Held held() const;  // memory that would come back without this slot, and memory that others hold as well

  void reset() noexcept;  // gives the memory back
  // Makes room for `tokens` more and returns each layer's memory, valid until the next call that changes the slot.
  // Throws OutOfMemory, then unchanged; InvalidArgument for a committed append while tentative tokens stand.
  const std::vector<model::LayerState>& begin_append(std::span<const int32_t> tokens, bool tentative);
  void end_append() noexcept;   // the pass has run
  void fail_append() noexcept;  // the pass has thrown: what was written is unknown, so the slot becomes empty
  void commit_all() noexcept;   // tentative tokens become committed
  void rollback() noexcept;     // forget the tentative tokens

  // this := other, tentative part included. Throws InvalidArgument for a slot of another pool, OutOfMemory; then unchanged.
  void copy_from(const StateSlot& other);

  // For the prefix cache: the parts of a state without tentative tokens, and a state made of such parts.
  std::span<const StateBlock> blocks() const;  // [ceil(n_tokens / kStateBlock)]; none where no state is per token
  SequenceState copy_of_sequence() const;      // throws OutOfMemory
  // this := n_tokens tokens whose rows lie in `blocks`, shared, and a copy of `sequence`. Throws OutOfMemory; then unchanged.
  void assign(int64_t n_tokens, std::vector<StateBlock> blocks, const SequenceState& sequence);

  // A file of formats::state_file form: identity, number of tokens, one section a state tensor, and the caller's `notes`.
  // Throws InvalidArgument while tentative tokens stand, IoError when it cannot be written (nothing half-written remains).
  void export_to(const std::filesystem::path& file, const std::map<std::string, std::string>& notes) const;
  // Replaces the state by the file's and returns its notes. Throws FormatError for a foreign, truncated, corrupt or mismatching
  // file; the slot is then untouched.
  std::map<std::string, std::string> import_from(const std::filesystem::path& file);
  std::map<std::string, std::string> import_from(const formats::StateFile& file);

 private:
  SequenceState memory_for(const SequenceState& from, const SequenceState& own) const;
  SequenceState copied(SequenceState to, const SequenceState& from) const noexcept;
  SequenceState empty_sequence() const;
  StateBlock own_last_block() const;
  void trim() noexcept;  // blocks past the tokens
  void point();          // layer_states_ and tables_ at the memory
  void replace(int64_t n_tokens, std::vector<StateBlock> blocks, SequenceState sequence) noexcept;

  StatePool* pool_;
  std::vector<StateBlock> blocks_;
  SequenceState sequence_;                       // none while the state is empty: then it is all zeros
  SequenceState snapshot_;                       // of the committed state; none when nothing is tentative
  std::vector<std::vector<std::byte*>> tables_;  // [per-token tensors of all layers] where their rows lie in each block
  size_t n_pointed_ = 0;                         // blocks whose entries in tables_ are right
  std::vector<model::LayerState> layer_states_;
  std::vector<int32_t> tentative_;
  int64_t n_tokens_ = 0, n_committed_ = 0, n_appending_ = 0;
};

// Of an exported slot, from the header of its file. Throws FormatError; `place` begins the message.
int64_t n_tokens_of(const formats::StateHeader& header, const std::string& place);

// visit(layer, index, spec) for all tensors in the order of the specs.
template <class Visit>
void for_each_state(const LayerSpecs& specs, Visit visit) {
  for (size_t layer = 0; layer < specs.size(); ++layer)
    for (size_t i = 0; i < specs[layer].size(); ++i) visit(layer, i, specs[layer][i]);
}

}  // namespace linnet::runtime
