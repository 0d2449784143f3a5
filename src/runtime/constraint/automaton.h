// Automaton: a grammar run over bytes, determinised as far as it has been walked. A state is the set of configurations that some
// text leads to; a configuration is a stack of grammar nodes: where each open rule goes on. States, their transitions and the masks
// of a vocabulary at them are kept until they fill a budget, and then forgotten together.
//
// Every state can be completed: configurations that could not, within the bounds of Grammar, are never made.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/constraint/grammar.h"
#include "runtime/constraint/token_trie.h"

namespace linnet::runtime {

class Automaton {
 public:
  using StateId = uint32_t;
  static constexpr StateId kDead = UINT32_MAX;
  static constexpr size_t kMaxStacks = 1024;        // of a state; those beyond it are dropped: fewer texts, none wrong
  static constexpr size_t kBudgetBytes = 48 << 20;  // of kept states and masks; within one walk up to twice that

  // Of grammar nodes, the innermost rule last; just {kEnd}: the text is complete.
  using Stack = std::u32string;
  using Stacks = std::vector<Stack>;  // sorted, distinct

  // A set of tokens. At most `longest` bytes complete the text behind each of them.
  struct Mask {
    std::vector<uint64_t> bits;
    uint32_t longest = 0;
  };

  Automaton(Grammar grammar, std::shared_ptr<const TokenTrie> trie);

  Stacks start() const { return {Stack(1, static_cast<char32_t>(grammar_.start()))}; }
  const TokenTrie& trie() const { return *trie_; }

  // Ids hold until the next forget(). Throws Unsupported when one walk needs more than twice the budget.
  StateId intern(Stacks stacks);
  const Stacks& stacks(StateId state) const { return states_[state].stacks; }
  StateId step(StateId state, uint8_t byte) { return expanded(state).next[byte]; }
  uint32_t shortest(StateId state) const { return states_[state].shortest; }  // bytes that complete the text
  bool complete(StateId state) { return expanded(state).complete; }
  bool final(StateId state);  // complete, and nothing may follow
  const Mask& mask(StateId state);
  // Tokens behind which at most `bytes` bytes complete the text.
  void mask_within(StateId state, uint32_t bytes, Mask& mask);

  bool full() const { return bytes_ > kBudgetBytes; }
  void forget();

 private:
  struct Row {
    StateId next[256];
    bool complete;
    StateId after_plain;  // where every plain byte of ASCII leads, or kDead
  };
  // So many plain characters may come, whichever they are; at most `longest` bytes complete the text behind each.
  struct PlainRun {
    uint32_t characters, longest;
  };
  struct State {
    Stacks stacks;
    uint32_t shortest;
    std::unique_ptr<const Row> row;
    std::unique_ptr<const Mask> mask;
    std::optional<PlainRun> plain_run;
  };
  class Closure;

  const Row& expanded(StateId state);
  PlainRun plain_run(StateId state);
  bool reads_any_character(StateId state, StateId to, uint32_t& longest);
  void charge(size_t bytes);

  const Grammar grammar_;
  const std::shared_ptr<const TokenTrie> trie_;
  std::vector<State> states_;
  std::unordered_map<std::u32string, StateId> ids_;    // by the stacks, one behind the other
  std::vector<std::pair<const Row*, PlainRun>> path_;  // of a walk, by depth
  size_t bytes_ = 0;
};

}  // namespace linnet::runtime
