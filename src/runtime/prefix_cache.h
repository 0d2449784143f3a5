// Prefix cache: states of token prefixes that were read before. Exact by construction: a state enters only if it was computed by the
// canonical prefill (docs/decisions/0006), so that what follows a hit has the bits of reading the whole prompt. A tree of blocks of
// tokens: each keeps its rows of per-token state, shared with slots by reference; some keep the per-sequence state behind them, and
// only there can a sequence go on. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/state_slot.h"

namespace linnet::runtime {

constexpr int64_t kCacheBlock = model::kStateBlock;

struct PrefixCacheStats {
  int64_t hits = 0, misses = 0;           // calls of restore with more than kCacheBlock tokens
  int64_t tokens_saved = 0;               // by the hits
  int64_t insertions = 0, evictions = 0;  // of states
  int64_t entries = 0, blocks = 0;        // states and blocks of tokens that are held now
  size_t bytes = 0, capacity = 0;
};

class PrefixCache {
 public:
  // Of the states of this pool, which outlives it and has no other cache. Keys begin with the pool's identity. capacity_bytes 0: off.
  // `hash_mask` is for tests: few bits make blocks collide.
  PrefixCache(StatePool& pool, size_t capacity_bytes, uint64_t hash_mask = ~uint64_t{0});
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  StatePool& pool() const { return pool_; }

  // Puts the longest stored prefix of tokens[0, size - 1) into `slot`, which was empty, and returns its length, a multiple of
  // kCacheBlock; 0: there is none. The slot shares rows and nothing else. Throws OutOfMemory, then nothing has changed.
  int64_t restore(std::span<const int32_t> tokens, StateSlot& slot);

  // The longest stored prefix of all the tokens, for a file: no hit, and no use of the state. What else is stored gives way when the
  // pool has no memory left for the copy. Throws OutOfMemory when that does not help.
  int64_t copy_state(std::span<const int32_t> tokens, StateSlot& slot);

  // How far `tokens` agree with what is stored, a multiple of kCacheBlock, be there a state or not. Beyond what restore finds it is
  // where prompts begin to differ: a state inserted there would serve each of them.
  int64_t common_prefix(std::span<const int32_t> tokens) const;

  // Remembers the slot's state, which was computed canonically from exactly `tokens` (a positive multiple of kCacheBlock of them;
  // else throws InvalidArgument). Evicts what is worth least; keeps nothing when that does not make room.
  void insert(std::span<const int32_t> tokens, const StateSlot& slot);

  // Frees `bytes` if it can (running sequences need them), the least worth first; returns what was freed.
  size_t evict(size_t bytes);
  void make_room(size_t bytes);     // for so many below the capacity, as far as it can
  void set_capacity(size_t bytes);  // and evicts down to it
  void clear();

  // Of what only the cache holds: its states, and blocks that no slot shares. At most the capacity after insert and
  // set_capacity; blocks that slots give up later count from then on.
  size_t bytes() const;
  size_t capacity() const { return capacity_; }
  PrefixCacheStats stats() const;

  bool ranks_hold() const;  // for tests: whether every state is ranked by what it is worth now

 private:
  // A block of tokens behind those of its parents. Every leaf has a state.
  struct Node {
    Node* parent;
    uint64_t hash;  // of the tokens from the first to this block's last
    int64_t depth;  // blocks so far, this one included
    std::array<int32_t, static_cast<size_t>(kCacheBlock)> tokens;
    StateBlock rows;         // none when no state is per token
    SequenceState sequence;  // behind this block; none: a sequence cannot go on here
    int64_t children = 0;
    Node *first_child = nullptr, *next = nullptr, *previous = nullptr;  // siblings
    int64_t uses = 0;                                                   // of the state: hits, and the insertion
    double age = 0;                                                     // clock_ at the last of them
    int64_t last_use = 0;
    double rank = 0;  // its worth; while it is in states_
  };
  struct WorthLess {
    bool operator()(const Node* a, const Node* b) const {
      return a->rank != b->rank ? a->rank < b->rank : a->last_use < b->last_use;
    }
  };
  using Block = std::span<const int32_t>;

  uint64_t hash_of(const Node* parent, Block block) const;
  Node* longest(std::span<const int32_t> tokens) const;  // the last node with a state
  int64_t assign(const Node* node, StateSlot& slot) const;
  Node* find(const Node* parent, Block block) const;
  Node* find_all(std::span<const int32_t> tokens) const;  // the node of the last block; none unless all are there
  Node* add(Node* parent, Block block, const StateBlock& rows);
  void link(Node& child);
  void unlink(Node& child);
  void put_state(Node& node, SequenceState sequence);
  void drop_state(Node& node);
  void drop_leaves(Node* node);  // from a leaf up, blocks that serve no state
  double worth(const Node& node) const;
  bool evict_one(const Node* but = nullptr);
  void use(Node& node, int64_t times);
  void rank_again(Node& node);
  void rank_below(const Node& node);
  void rank_chain(const Node& parent);

  StatePool& pool_;
  size_t capacity_;
  uint64_t hash_mask_, root_hash_;
  std::unordered_multimap<uint64_t, Node> nodes_;
  std::set<Node*, WorthLess> states_;  // nodes with one, the least worth first
  double clock_ = 0;                   // the worth of what was evicted last
  int64_t n_touches_ = 0;
  PrefixCacheStats stats_;
};

}  // namespace linnet::runtime
