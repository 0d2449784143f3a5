// Constraint: what one sequence may still say so that its text follows a grammar. Copies are independent and share what has been
// computed; different copies may be used by different threads.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/constraint/automaton.h"

namespace linnet::runtime {

class Constraint {
 public:
  static constexpr int64_t kUnlimited = INT64_MAX;

  // Any JSON object; a value of a schema (throws as json_schema_grammar). `end_ids` are the tokens that may end the text.
  static Constraint json_object(std::shared_ptr<const TokenTrie> trie, std::vector<int32_t> end_ids);
  static Constraint json_schema(std::string_view schema, const std::string& place,
                                std::shared_ptr<const TokenTrie> trie, std::vector<int32_t> end_ids);
  // A special token that the grammar may read, and the byte that stands for it there: Grammar::kFirstTerminal or more.
  struct Terminal {
    int32_t token;
    uint8_t byte;
  };
  Constraint(Grammar grammar, std::shared_ptr<const TokenTrie> trie, std::vector<int32_t> end_ids,
             std::vector<Terminal> terminals = {});

  // One bit for each id below n_ids: the tokens that may come next. Text tokens of which some text follows; end tokens exactly when
  // may_end(); terminals that the grammar reads; never another special token. `bytes_left`: what may be written behind the token; tokens that then leave no way to
  // complete the text are out, unless all are. Returns whether bytes_left excluded any.
  bool mask(std::span<uint64_t> bits, int64_t bytes_left = kUnlimited) const;
  size_t n_words() const;  // of the span

  // Takes a token that mask() allows, whatever bytes_left was. Throws InvalidArgument for another, and stays as it is.
  void accept(int32_t token);

  std::optional<uint8_t> terminal(int32_t token) const;  // its byte

  bool may_end() const { return complete_; }      // the text is complete as it stands
  bool must_end() const { return final_; }        // and nothing can follow
  int64_t shortest() const { return shortest_; }  // bytes that complete the text at least

 private:
  struct Shared;
  uint32_t state() const;  // shared_ is locked
  void move_to(uint32_t state);

  std::shared_ptr<Shared> shared_;
  Automaton::Stacks stacks_;
  uint32_t shortest_ = 0;
  bool complete_ = false, final_ = false, ended_ = false;
};

}  // namespace linnet::runtime
