#include "runtime/prefix_cache.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {

static_assert(kCacheBlock == model::kPassChunk, "states at multiples of a block are those of the canonical prefill");

namespace {

constexpr size_t kBlock = static_cast<size_t>(kCacheBlock);

// More uses than this add nothing: what was popular once gives way after so many times its own worth has been evicted.
constexpr int64_t kMostUses = 16;

}  // namespace

PrefixCache::PrefixCache(StatePool& pool, size_t capacity_bytes, uint64_t hash_mask)
    : pool_(pool),
      capacity_(capacity_bytes),
      hash_mask_(hash_mask),
      root_hash_(XXH64(pool.identity().data(), pool.identity().size(), 0)) {}

PrefixCache::~PrefixCache() { clear(); }

void PrefixCache::clear() {
  for (auto& [hash, node] : nodes_)
    if (node.rows) node.rows.unmark_idle();
  states_.clear(), nodes_.clear();
}

uint64_t PrefixCache::hash_of(const Node* parent, Block block) const {
  return XXH64(block.data(), block.size_bytes(), parent ? parent->hash : root_hash_) & hash_mask_;
}

PrefixCache::Node* PrefixCache::find(const Node* parent, Block block) const {
  const auto [first, last] = nodes_.equal_range(hash_of(parent, block));
  for (auto at = first; at != last; ++at) {
    const Node& node = at->second;
    if (node.parent == parent && std::equal(block.begin(), block.end(), node.tokens.begin()))
      return const_cast<Node*>(&node);
  }
  return nullptr;
}

PrefixCache::Node* PrefixCache::add(Node* parent, Block block, const StateBlock& rows) {
  const uint64_t hash = hash_of(parent, block);
  Node& node =
      nodes_.emplace(hash, Node{.parent = parent, .hash = hash, .depth = parent ? parent->depth + 1 : 1})->second;
  std::copy(block.begin(), block.end(), node.tokens.begin());
  node.rows = rows;
  if (node.rows) node.rows.mark_idle();
  if (parent) link(node);
  return &node;
}

// Of blocks with one child and without state the worth of the state behind them depends: whether they would go with it.
void PrefixCache::link(Node& child) {
  Node& parent = *child.parent;
  child.next = parent.first_child;
  if (child.next) child.next->previous = &child;
  if (++parent.children == 1 && parent.sequence) rank_again(parent);
  if (parent.children == 2) rank_chain(parent);
  parent.first_child = &child;
}

void PrefixCache::unlink(Node& child) {
  Node& parent = *child.parent;
  (child.previous ? child.previous->next : parent.first_child) = child.next;
  if (child.next) child.next->previous = child.previous;
  if (--parent.children == 0 && parent.sequence) rank_again(parent);
  if (parent.children == 1) rank_chain(parent);
}

PrefixCache::Node* PrefixCache::longest(std::span<const int32_t> tokens) const {
  Node* best = nullptr;
  Node* node = nullptr;
  for (size_t at = 0; at + kBlock <= tokens.size(); at += kBlock) {
    node = find(node, tokens.subspan(at, kBlock));
    if (!node) break;
    if (node->sequence) best = node;
  }
  return best;
}

int64_t PrefixCache::assign(const Node* node, StateSlot& slot) const {
  if (&slot.pool() != &pool_) throw InvalidArgument("prefix cache: expected a slot of the cache's pool");
  if (!node) return 0;
  std::vector<StateBlock> rows(pool_.block_bytes() > 0 ? static_cast<size_t>(node->depth) : 0);
  if (!rows.empty())
    for (const Node* at = node; at; at = at->parent) rows[static_cast<size_t>(at->depth - 1)] = at->rows;
  slot.assign(node->depth * kCacheBlock, std::move(rows), node->sequence);
  return slot.n_tokens();
}

int64_t PrefixCache::restore(std::span<const int32_t> tokens, StateSlot& slot) {
  if (tokens.size() <= kBlock) return 0;
  Node* const best = longest(tokens.first(tokens.size() - 1));
  const int64_t n = assign(best, slot);
  if (n == 0) return ++stats_.misses, 0;
  use(*best, 1);
  ++stats_.hits, stats_.tokens_saved += n;
  return n;
}

int64_t PrefixCache::copy_state(std::span<const int32_t> tokens, StateSlot& slot) {
  const Node* const node = longest(tokens);
  const auto no_memory = [&] {
    return pool_.limit() - std::min(pool_.limit(), pool_.bytes()) < pool_.sequence_bytes();
  };
  while (node && no_memory() && evict_one(node)) {}
  return assign(node, slot);
}

int64_t PrefixCache::common_prefix(std::span<const int32_t> tokens) const {
  const Node* node = nullptr;
  size_t at = 0;
  for (; at + kBlock <= tokens.size(); at += kBlock) {
    node = find(node, tokens.subspan(at, kBlock));
    if (!node) break;
  }
  return static_cast<int64_t>(at);
}

void PrefixCache::insert(std::span<const int32_t> tokens, const StateSlot& slot) {
  if (&slot.pool() != &pool_) throw InvalidArgument("prefix cache: insert: expected a slot of the cache's pool");
  if (tokens.empty() || tokens.size() % kBlock != 0 || slot.n_tentative() > 0 ||
      slot.n_tokens() != static_cast<int64_t>(tokens.size()))
    throw InvalidArgument(cat("prefix cache: insert: expected a state of a multiple of ", kCacheBlock,
                              " tokens without tentative ones, got ", tokens.size(), " tokens, ", slot.n_tokens(),
                              " in the slot, ", slot.n_tentative(), " of them tentative"));
  make_room(0);
  if (Node* known = find_all(tokens); known && known->sequence) {
    use(*known, 0);
    return;
  }
  const size_t needed = pool_.sequence_bytes();  // the rows are the slot's as well
  make_room(needed);
  if (capacity_ == 0 || bytes() + needed > capacity_) return;
  SequenceState sequence;
  try {
    sequence = slot.copy_of_sequence();
  } catch (const OutOfMemory&) { return; }  // running sequences have it

  Node* node = nullptr;
  try {
    for (size_t at = 0; at < tokens.size(); at += kBlock) {
      const Block block = tokens.subspan(at, kBlock);
      Node* next = find(node, block);
      node = next ? next : add(node, block, slot.blocks().empty() ? StateBlock() : slot.blocks()[at / kBlock]);
      if (needed == 0 && !node->sequence) put_state(*node, pool_.take_sequence());  // rows are all there is to a state
    }
    if (!node->sequence) put_state(*node, std::move(sequence));
  } catch (...) {
    drop_leaves(node);
    throw;
  }
}

PrefixCache::Node* PrefixCache::find_all(std::span<const int32_t> tokens) const {
  Node* node = nullptr;
  for (size_t at = 0; at + kBlock <= tokens.size(); at += kBlock)
    if (node = find(node, tokens.subspan(at, kBlock)); !node) return nullptr;
  return node;
}

void PrefixCache::put_state(Node& node, SequenceState sequence) {
  node.uses = 0;
  use(node, 1);
  node.sequence = std::move(sequence);
  rank_below(node);
  ++stats_.insertions;
}

void PrefixCache::drop_state(Node& node) {
  states_.erase(&node);
  node.sequence = {};
  rank_below(node);
}

void PrefixCache::use(Node& node, int64_t times) {
  auto place = states_.extract(&node);
  node.uses += times, node.age = clock_, node.last_use = ++n_touches_;
  node.rank = worth(node);
  if (place.empty()) states_.insert(&node);
  else states_.insert(std::move(place));
}

void PrefixCache::rank_again(Node& node) {
  auto place = states_.extract(&node);
  node.rank = worth(node);
  states_.insert(std::move(place));
}

// The states behind this block, as far as no other lies between.
void PrefixCache::rank_below(const Node& node) {
  for (Node* at = node.first_child; at;) {
    if (at->sequence) rank_again(*at);
    else if (at->first_child) {
      at = at->first_child;
      continue;
    }
    while (!at->next) {
      at = at->parent;
      if (at == &node) return;
    }
    at = at->next;
  }
}

// The state behind the first child, if nothing branches off before it.
void PrefixCache::rank_chain(const Node& parent) {
  Node* at = parent.first_child;
  while (!at->sequence && at->children == 1) at = at->first_child;
  if (at->sequence) rank_again(*at);
}

bool PrefixCache::ranks_hold() const {
  return std::all_of(states_.begin(), states_.end(), [&](const Node* node) { return node->rank == worth(*node); });
}

void PrefixCache::drop_leaves(Node* node) {
  while (node && !node->sequence && node->children == 0) {
    Node* const parent = node->parent;
    if (parent) unlink(*node);
    if (node->rows) node->rows.unmark_idle();
    auto at = nodes_.equal_range(node->hash).first;
    while (&at->second != node) ++at;
    nodes_.erase(at);
    node = parent;
  }
}

// Tokens that would have to be read again without this state, per byte that would come back, times its uses; on top of the worth of
// what was evicted when it was used last, so that what is not used falls behind (greedy-dual-size with frequency, Cherkasova 1998).
double PrefixCache::worth(const Node& node) const {
  int64_t n_blocks = 0, n_freed = 0;
  bool alone = node.children == 0;  // no other state needs the rows
  for (const Node* at = &node; at && (at == &node || !at->sequence); at = at->parent) {
    alone = alone && (at == &node || at->children == 1);
    ++n_blocks, n_freed += alone ? 1 : 0;
  }
  const size_t freed = pool_.sequence_bytes() + static_cast<size_t>(n_freed) * pool_.block_bytes();
  const double tokens = static_cast<double>(n_blocks * kCacheBlock * std::min(node.uses, kMostUses));
  return node.age + tokens / static_cast<double>(std::max<size_t>(freed, 1));
}

bool PrefixCache::evict_one(const Node* but) {
  auto first = states_.begin();
  if (first != states_.end() && *first == but) ++first;
  if (first == states_.end()) return false;
  Node* const least = *first;
  clock_ = std::max(clock_, least->rank);
  drop_state(*least);
  drop_leaves(least);
  ++stats_.evictions;
  return true;
}

size_t PrefixCache::evict(size_t wanted) {
  const size_t before = bytes();
  while (before - bytes() < wanted && evict_one()) {}
  return before - bytes();
}

void PrefixCache::set_capacity(size_t capacity_bytes) {
  capacity_ = capacity_bytes;
  make_room(0);
}

void PrefixCache::make_room(size_t wanted) {
  while (bytes() + wanted > capacity_ && evict_one()) {}
}

size_t PrefixCache::bytes() const { return pool_.idle_bytes() + states_.size() * pool_.sequence_bytes(); }

PrefixCacheStats PrefixCache::stats() const {
  PrefixCacheStats stats = stats_;
  stats.entries = static_cast<int64_t>(states_.size()), stats.blocks = static_cast<int64_t>(nodes_.size());
  stats.bytes = bytes(), stats.capacity = capacity_;
  return stats;
}

}  // namespace linnet::runtime
