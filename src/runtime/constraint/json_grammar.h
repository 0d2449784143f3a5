// JSON text as grammar rules, in the form in which a constraint lets it be written.
//
// White space stands where writers put it, and is bounded: behind { [ , : and before } ] nothing, a space, or a line end and up to
// 32 spaces or 8 tabs. Numbers have at most 16 digits before and 16 behind the point and two in the exponent, integers 18 digits:
// every one is a finite double or an int64. Strings are UTF-8; surrogates come in pairs only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/constraint/grammar.h"

namespace linnet::runtime {

class JsonGrammar {
 public:
  using Node = Grammar::Node;
  explicit JsonGrammar(Grammar& grammar) : g_(grammar) {}

  // Rules, each built when first asked for.
  Node space(), character(), string(), number(), integer(), value(), object(), array();
  // A key as a string without escapes that is none of `names`.
  Node other_key(const std::vector<std::string>& names);

  // One character of a string from node to node: as itself, or escaped.
  void add_character(Node from, Node to);
  // Ways from `from` to `to`, each one of the texts; none is empty.
  void add_words(Node from, const std::vector<std::string>& words, Node to);

 private:
  void add_plain_character(Node from, Node to);
  void add_escape(Node from, Node to);
  void add_hex(Node from, Node to);
  Node digits(Node from, int most, Node to);
  void add_digit(Node from, Node to) { g_.read(from, '0', '9', to); }

  Grammar& g_;
  std::optional<Node> space_, character_, string_, number_, integer_, value_, object_, array_;
};

}  // namespace linnet::runtime
