#include "runtime/constraint/automaton.h"

#include <algorithm>
#include <array>
#include <unordered_set>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {
namespace {

constexpr char32_t kBetween = UINT32_MAX;  // two stacks in a key: no node

}  // namespace

// What a set of configurations can read next: everything reached by skips, calls and returns.
class Automaton::Closure {
 public:
  Closure(const Grammar& grammar, const Stacks& stacks) : grammar_(grammar) {
    for (const Stack& stack : stacks) reach(stack);
    while (!work_.empty()) {
      const Stack stack = std::move(work_.back());
      work_.pop_back();
      const Grammar::Node top = stack.back();
      if (top != Grammar::kEnd) {
        for (const Grammar::Edge& edge : grammar.edges(top)) follow(stack, edge);
      } else if (stack.size() > 1) {
        reach(stack.substr(0, stack.size() - 1));  // the rule returns
      } else {
        complete = true;
      }
    }
  }

  // A range of bytes and the configuration behind it.
  struct Read {
    uint8_t low, high;
    Stack stack;
  };
  std::vector<Read> reads;
  bool complete = false;

 private:
  void reach(Stack stack) {
    const auto [found, fresh] = seen_.insert(std::move(stack));
    if (fresh) work_.push_back(*found);
  }

  // `node` on top of `below` open rules can be completed within the bounds.
  bool possible(Grammar::Node node, size_t below) const {
    return !grammar_.dead(node) && below + grammar_.completion(node).height <= Grammar::kMaxHeight;
  }

  void follow(const Stack& stack, const Grammar::Edge& edge) {
    const size_t below = stack.size() - 1;
    if (!possible(edge.to, below)) return;
    Stack next = stack;
    next.back() = edge.to;
    if (edge.kind == Grammar::Kind::bytes) return reads.push_back({edge.low, edge.high, std::move(next)});
    if (edge.kind == Grammar::Kind::call) {
      const bool last = edge.to == Grammar::kEnd;  // nothing to come back for: the callee takes the caller's place
      if (!possible(edge.callee, below + !last)) return;
      if (last) next.back() = edge.callee;
      else next.push_back(edge.callee);
    }
    reach(std::move(next));
  }

  const Grammar& grammar_;
  std::vector<Stack> work_;
  std::unordered_set<Stack> seen_;
};

Automaton::Automaton(Grammar grammar, std::shared_ptr<const TokenTrie> trie)
    : grammar_(std::move(grammar)), trie_(std::move(trie)), path_(trie_->max_depth() + 1) {}

void Automaton::charge(size_t bytes) {
  bytes_ += bytes;
  if (bytes_ > 2 * kBudgetBytes)
    throw Unsupported(cat("constraint: expected a schema with few ways to read one text, got one whose states fill ",
                          bytes_text(bytes_)));
}

void Automaton::forget() {
  states_.clear();
  ids_.clear();
  bytes_ = 0;
}

Automaton::StateId Automaton::intern(Stacks stacks) {
  std::u32string key;
  for (const Stack& stack : stacks) key += stack, key += kBetween;
  if (const auto found = ids_.find(key); found != ids_.end()) return found->second;
  charge(2 * key.size() * sizeof key[0] + stacks.size() * sizeof(Stack) + sizeof(State) + 64);
  uint32_t shortest = UINT32_MAX;
  for (const Stack& stack : stacks) {
    uint32_t bytes = 0;
    for (char32_t node : stack) bytes += grammar_.completion(node).bytes;
    shortest = std::min(shortest, bytes);
  }
  const auto id = static_cast<StateId>(states_.size());
  states_.push_back({.stacks = std::move(stacks), .shortest = shortest});
  ids_.emplace(std::move(key), id);
  return id;
}

const Automaton::Row& Automaton::expanded(StateId state) {
  if (states_[state].row) return *states_[state].row;
  const Closure closure(grammar_, states_[state].stacks);
  std::array<bool, 257> cut{};  // where the set of possible reads changes
  for (const auto& [low, high, stack] : closure.reads) cut[low] = cut[high + 1u] = true;
  auto row = std::make_unique<Row>();
  row->complete = closure.complete;
  StateId next = kDead;
  for (size_t byte = 0; byte < 256; ++byte) {
    if (cut[byte]) {
      Stacks stacks;
      for (const Closure::Read& read : closure.reads)
        if (byte >= read.low && byte <= read.high) stacks.push_back(read.stack);
      std::sort(stacks.begin(), stacks.end());
      stacks.erase(std::unique(stacks.begin(), stacks.end()), stacks.end());
      if (stacks.size() > kMaxStacks) stacks.resize(kMaxStacks);
      next = stacks.empty() ? kDead : intern(std::move(stacks));
    }
    row->next[byte] = next;
  }
  row->after_plain = row->next[0x20];
  for (size_t byte = 0; byte < 256; ++byte)
    if (TokenTrie::is_plain(static_cast<uint8_t>(byte)) && row->next[byte] != row->next[0x20]) row->after_plain = kDead;
  charge(sizeof(Row));
  states_[state].row = std::move(row);
  return *states_[state].row;
}

bool Automaton::final(StateId state) {
  const Row& row = expanded(state);
  return row.complete && std::all_of(row.next, row.next + 256, [](StateId next) { return next == kDead; });
}

const Automaton::Mask& Automaton::mask(StateId state) {
  if (!states_[state].mask) {
    auto mask = std::make_unique<Mask>();
    mask_within(state, UINT32_MAX, *mask);
    charge(mask->bits.size() * sizeof(uint64_t));
    states_[state].mask = std::move(mask);
  }
  return *states_[state].mask;
}

void Automaton::mask_within(StateId state, uint32_t bytes, Mask& mask) {
  mask.bits.assign((static_cast<size_t>(trie_->n_ids()) + 63) / 64, 0);
  mask.longest = 0;
  const auto enter = [&](size_t depth, StateId at) { path_[depth] = {&expanded(at), plain_run(at)}; };
  const auto add = [&](int32_t token) { mask.bits[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64); };
  enter(0, state);
  const auto nodes = trie_->nodes();
  for (uint32_t i = 0; i < nodes.size();) {
    const TokenTrie::Node& node = nodes[i];
    const auto& [row, run] = path_[node.depth];
    if (node.plain > 0 && node.plain <= run.characters && run.longest <= bytes) {
      for (int32_t token : trie_->tokens_below(node)) add(token);
      mask.longest = std::max(mask.longest, run.longest);
      i = node.skip;
      continue;
    }
    const StateId next =
        node.byte < Grammar::kFirstTerminal ? row->next[node.byte] : kDead;  // no text is a special token
    if (next == kDead) {
      i = node.skip;
      continue;
    }
    if (node.token >= 0 && states_[next].shortest <= bytes) {
      add(node.token);
      mask.longest = std::max(mask.longest, states_[next].shortest);
    }
    if (++i < node.skip) enter(node.depth + 1u, next);
  }
}

// Whether every character beyond ASCII leads from `state` to `to`. Raises `longest` to what completes the text within one.
bool Automaton::reads_any_character(StateId state, StateId to, uint32_t& longest) {
  struct Lead {
    uint8_t low, high, second_low, second_high;
    int length;
  };
  static constexpr Lead kLeads[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
                                    {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
                                    {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
                                    {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
  // The one state that all bytes of a range lead to, or kDead.
  const auto common = [&](StateId from, uint8_t low, uint8_t high) {
    const Row& row = expanded(from);
    const bool same = std::all_of(row.next + low, row.next + high + 1, [&](StateId s) { return s == row.next[low]; });
    return same ? row.next[low] : kDead;
  };
  for (const Lead& lead : kLeads) {
    StateId at = common(state, lead.low, lead.high);
    for (int i = 1; i < lead.length && at != kDead; ++i) {
      longest = std::max(longest, states_[at].shortest);
      at = i == 1 ? common(at, lead.second_low, lead.second_high) : common(at, 0x80, 0xbf);
    }
    if (at != to) return false;
  }
  return true;
}

// Strings are where masks are large, and all plain characters do the same there.
Automaton::PlainRun Automaton::plain_run(StateId state) {
  if (states_[state].plain_run) return *states_[state].plain_run;
  PlainRun run{0, 0};
  for (StateId at = state; run.characters < UINT8_MAX; ++run.characters) {
    const StateId next = expanded(at).after_plain;
    uint32_t longest = run.longest;
    if (next == kDead || !reads_any_character(at, next, longest)) break;
    run.longest = std::max(longest, states_[next].shortest);
    if (next == at) run.characters = UINT8_MAX - 1;
    at = next;
  }
  states_[state].plain_run = run;
  return run;
}

}  // namespace linnet::runtime
