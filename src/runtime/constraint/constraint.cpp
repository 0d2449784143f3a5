#include "runtime/constraint/constraint.h"

#include <algorithm>
#include <mutex>

#include "core/errors.h"
#include "core/text.h"
#include "runtime/constraint/json_schema.h"

namespace linnet::runtime {

struct Constraint::Shared {
  Shared(Grammar grammar, std::shared_ptr<const TokenTrie> trie, std::vector<int32_t> ends,
         std::vector<Terminal> specials)
      : automaton(std::move(grammar), std::move(trie)), end_ids(std::move(ends)), terminals(std::move(specials)) {}

  std::mutex mutex;  // of the automaton
  Automaton automaton;
  const std::vector<int32_t> end_ids;
  const std::vector<Terminal> terminals;
};

Constraint Constraint::json_object(std::shared_ptr<const TokenTrie> trie, std::vector<int32_t> end_ids) {
  return {json_object_grammar(), std::move(trie), std::move(end_ids)};
}

Constraint Constraint::json_schema(std::string_view schema, const std::string& place,
                                   std::shared_ptr<const TokenTrie> trie, std::vector<int32_t> end_ids) {
  return {json_schema_grammar(schema, place), std::move(trie), std::move(end_ids)};
}

Constraint::Constraint(Grammar grammar, std::shared_ptr<const TokenTrie> trie, std::vector<int32_t> end_ids,
                       std::vector<Terminal> terminals)
    : shared_(std::make_shared<Shared>(std::move(grammar), std::move(trie), std::move(end_ids), std::move(terminals))) {
  stacks_ = shared_->automaton.start();
  move_to(state());
}

// The id of where this constraint stands; the automaton may have forgotten it.
uint32_t Constraint::state() const {
  if (shared_->automaton.full()) shared_->automaton.forget();
  return shared_->automaton.intern(stacks_);
}

void Constraint::move_to(uint32_t state) {
  Automaton& automaton = shared_->automaton;
  complete_ = automaton.complete(state);
  final_ = automaton.final(state);
  shortest_ = automaton.shortest(state);
  stacks_ = automaton.stacks(state);
}

size_t Constraint::n_words() const { return (static_cast<size_t>(shared_->automaton.trie().n_ids()) + 63) / 64; }

bool Constraint::mask(std::span<uint64_t> bits, int64_t bytes_left) const {
  if (bits.size() != n_words())
    throw InvalidArgument(cat("constraint mask: expected ", n_words(), " words, got ", bits.size()));
  std::fill(bits.begin(), bits.end(), 0);
  if (ended_) return false;
  const std::lock_guard lock(shared_->mutex);
  const uint32_t at = state();
  const Automaton::Mask& all = shared_->automaton.mask(at);
  std::copy(all.bits.begin(), all.bits.end(), bits.begin());
  bool excluded = false;
  std::vector<int32_t> terminals, fitting;
  for (const Terminal& t : shared_->terminals) {
    const uint32_t next = shared_->automaton.step(at, t.byte);
    if (next == Automaton::kDead || t.token >= shared_->automaton.trie().n_ids()) continue;
    terminals.push_back(t.token);
    if (shared_->automaton.shortest(next) <= bytes_left) fitting.push_back(t.token);
  }
  if (bytes_left < all.longest || fitting.size() < terminals.size()) {
    Automaton::Mask some;
    shared_->automaton.mask_within(at, static_cast<uint32_t>(std::clamp<int64_t>(bytes_left, 0, UINT32_MAX)), some);
    const bool none = std::all_of(some.bits.begin(), some.bits.end(), [](uint64_t word) { return word == 0; });
    excluded = some.bits != all.bits || fitting.size() < terminals.size();
    if (!none || complete_ || !fitting.empty()) {
      std::copy(some.bits.begin(), some.bits.end(), bits.begin());
      terminals = fitting;
    }
  }
  for (int32_t id : terminals) bits[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
  for (int32_t id : shared_->end_ids) {
    if (id < 0 || id >= shared_->automaton.trie().n_ids()) continue;
    uint64_t& word = bits[static_cast<size_t>(id) / 64];
    const uint64_t bit = uint64_t{1} << (id % 64);
    word = complete_ ? word | bit : word & ~bit;
  }
  return excluded;
}

std::optional<uint8_t> Constraint::terminal(int32_t token) const {
  for (const Terminal& t : shared_->terminals)
    if (t.token == token) return t.byte;
  return std::nullopt;
}

void Constraint::accept(int32_t token) {
  const auto refused = [&] { return InvalidArgument(cat("constraint: token ", token, " is not allowed here")); };
  if (ended_) throw refused();
  const auto& ends = shared_->end_ids;
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
    if (!complete_) throw refused();
    ended_ = true;
    final_ = true;
    return;
  }
  const std::optional<uint8_t> special = terminal(token);
  const char special_text = static_cast<char>(special.value_or(0));
  const std::string_view text =
      special ? std::string_view(&special_text, 1) : shared_->automaton.trie().bytes_of(token);
  const auto is_terminal = [](char byte) { return static_cast<uint8_t>(byte) >= Grammar::kFirstTerminal; };
  if (text.empty() || (!special && std::any_of(text.begin(), text.end(), is_terminal))) throw refused();
  const std::lock_guard lock(shared_->mutex);
  uint32_t at = state();
  for (char byte : text)
    if ((at = shared_->automaton.step(at, static_cast<uint8_t>(byte))) == Automaton::kDead) throw refused();
  move_to(at);
}

}  // namespace linnet::runtime
