#include "runtime/constraint/json_grammar.h"

#include <algorithm>
#include <array>
#include <map>

namespace linnet::runtime {
namespace {

using Node = Grammar::Node;
constexpr Node kEnd = Grammar::kEnd;

}  // namespace

Node JsonGrammar::space() {
  if (space_) return *space_;
  const Node start = *(space_ = g_.add_node());
  g_.skip(start, kEnd);
  g_.read_to(start, " ", kEnd);
  const Node line = g_.read(start, "\n");
  g_.skip(line, kEnd);
  for (const auto& [indent, most] : {std::pair(" ", 32), {"\t", 8}}) {
    Node at = line;
    for (int i = 0; i < most; ++i) g_.skip(at = g_.read(at, indent), kEnd);
  }
  return start;
}

// Well-formed UTF-8 (table 3-7 of the Unicode standard) but for controls, the quote and the backslash.
void JsonGrammar::add_plain_character(Node from, Node to) {
  for (const auto& [low, high] : {std::pair(0x20, 0x21), {0x23, 0x5b}, {0x5d, 0x7f}})
    g_.read(from, static_cast<uint8_t>(low), static_cast<uint8_t>(high), to);
  const Node one = g_.add_node(), two = g_.add_node(), three = g_.add_node();  // continuation bytes to come
  g_.read(one, 0x80, 0xbf, to);
  g_.read(two, 0x80, 0xbf, one);
  g_.read(three, 0x80, 0xbf, two);
  const auto lead = [&](uint8_t low, uint8_t high, uint8_t next_low, uint8_t next_high, Node rest) {
    const Node second = g_.add_node();
    g_.read(from, low, high, second);
    g_.read(second, next_low, next_high, rest);
  };
  g_.read(from, 0xc2, 0xdf, one);
  lead(0xe0, 0xe0, 0xa0, 0xbf, one);  // no overlong forms
  g_.read(from, 0xe1, 0xec, two);
  lead(0xed, 0xed, 0x80, 0x9f, one);  // no surrogates
  g_.read(from, 0xee, 0xef, two);
  lead(0xf0, 0xf0, 0x90, 0xbf, two);
  g_.read(from, 0xf1, 0xf3, three);
  lead(0xf4, 0xf4, 0x80, 0x8f, two);  // up to U+10FFFF
}

void JsonGrammar::add_hex(Node from, Node to) {
  for (const auto& [low, high] : {std::pair('0', '9'), {'a', 'f'}, {'A', 'F'}})
    g_.read(from, static_cast<uint8_t>(low), static_cast<uint8_t>(high), to);
}

void JsonGrammar::add_escape(Node from, Node to) {
  const Node escape = g_.read(from, "\\");
  for (char c : std::string_view("\"\\/bfnrt")) g_.read(escape, static_cast<uint8_t>(c), static_cast<uint8_t>(c), to);
  const Node first = g_.read(escape, "u"), second = g_.add_node(), third = g_.add_node(), fourth = g_.add_node();
  for (const auto& [low, high] : {std::pair('0', '9'), {'a', 'c'}, {'A', 'C'}, {'e', 'f'}, {'E', 'F'}})
    g_.read(first, static_cast<uint8_t>(low), static_cast<uint8_t>(high), second);
  add_hex(second, third);
  add_hex(third, fourth);
  add_hex(fourth, to);
  // D000..D7FF are characters; D800..DBFF need DC00..DFFF behind them.
  const Node after_d = g_.add_node(), high3 = g_.add_node(), high4 = g_.add_node(), high_done = g_.add_node();
  for (uint8_t d : {'d', 'D'}) g_.read(first, d, d, after_d);
  g_.read(after_d, '0', '7', third);
  for (const auto& [low, high] : {std::pair('8', '9'), {'a', 'b'}, {'A', 'B'}})
    g_.read(after_d, static_cast<uint8_t>(low), static_cast<uint8_t>(high), high3);
  add_hex(high3, high4);
  add_hex(high4, high_done);
  const Node low1 = g_.read(high_done, "\\u"), low2 = g_.add_node();
  for (uint8_t d : {'d', 'D'}) g_.read(low1, d, d, low2);
  for (const auto& [low, high] : {std::pair('c', 'f'), {'C', 'F'}})
    g_.read(low2, static_cast<uint8_t>(low), static_cast<uint8_t>(high), third);
}

void JsonGrammar::add_character(Node from, Node to) {
  add_plain_character(from, to);
  add_escape(from, to);
}

Node JsonGrammar::character() {
  if (!character_) add_character(*(character_ = g_.add_node()), kEnd);
  return *character_;
}

Node JsonGrammar::string() {
  if (string_) return *string_;
  string_ = g_.add_node();
  const Node body = g_.read(*string_, "\"");
  add_character(body, body);
  g_.read_to(body, "\"", kEnd);
  return *string_;
}

// Up to `most` digits, each of which may be the last, then `to`. Returns the node behind the last digit.
Node JsonGrammar::digits(Node from, int most, Node to) {
  for (int i = 0; i < most; ++i) {
    const Node next = g_.add_node();
    add_digit(from, next);
    g_.skip(next, to);
    from = next;
  }
  return from;
}

Node JsonGrammar::number() {
  if (number_) return *number_;
  const Node start = *(number_ = g_.add_node()), unsigned_part = g_.add_node(), whole = g_.add_node();
  g_.skip(start, unsigned_part);
  g_.read_to(start, "-", unsigned_part);
  g_.read_to(unsigned_part, "0", whole);
  const Node first = g_.add_node();
  g_.read(unsigned_part, '1', '9', first);
  g_.skip(first, whole);
  digits(first, 15, whole);
  const Node fraction_done = g_.add_node();
  g_.skip(whole, fraction_done);
  digits(g_.read(whole, "."), 16, fraction_done);
  g_.skip(fraction_done, kEnd);
  const Node exponent = g_.add_node(), exponent_digits = g_.add_node();
  for (uint8_t e : {'e', 'E'}) g_.read(fraction_done, e, e, exponent);
  g_.skip(exponent, exponent_digits);
  for (uint8_t sign : {'+', '-'}) g_.read(exponent, sign, sign, exponent_digits);
  digits(exponent_digits, 2, kEnd);
  return start;
}

Node JsonGrammar::integer() {
  if (integer_) return *integer_;
  const Node start = *(integer_ = g_.add_node()), minus = g_.read(start, "-"), first = g_.add_node();
  g_.read_to(start, "0", kEnd);
  for (Node from : {start, minus}) g_.read(from, '1', '9', first);
  g_.skip(first, kEnd);
  digits(first, 17, kEnd);
  return start;
}

Node JsonGrammar::value() {
  if (value_) return *value_;
  value_ = g_.add_node();  // before what it calls, which calls it again
  for (Node rule : {object(), array(), string(), number()}) g_.call(*value_, rule, kEnd);
  add_words(*value_, {"true", "false", "null"}, kEnd);
  return *value_;
}

Node JsonGrammar::object() {
  if (object_) return *object_;
  object_ = g_.add_node();
  const Node first = g_.called(g_.read(*object_, "{"), space()), key = g_.add_node(), after = g_.add_node();
  g_.read_to(first, "}", kEnd);
  g_.skip(first, key);
  g_.call(g_.called(g_.read(g_.called(key, string()), ":"), space()), value(), after);
  g_.call(g_.read(after, ","), space(), key);
  g_.read_to(g_.called(after, space()), "}", kEnd);
  return *object_;
}

Node JsonGrammar::array() {
  if (array_) return *array_;
  array_ = g_.add_node();
  const Node first = g_.called(g_.read(*array_, "["), space()), item = g_.add_node(), after = g_.add_node();
  g_.read_to(first, "]", kEnd);
  g_.skip(first, item);
  g_.call(item, value(), after);
  g_.call(g_.read(after, ","), space(), item);
  g_.read_to(g_.called(after, space()), "]", kEnd);
  return *array_;
}

void JsonGrammar::add_words(Node from, const std::vector<std::string>& words, Node to) {
  std::map<std::pair<Node, uint8_t>, Node> trie;
  for (const std::string& word : words) {
    Node at = from;
    for (size_t i = 0; i + 1 < word.size(); ++i) {
      const auto byte = static_cast<uint8_t>(word[i]);
      const auto [found, fresh] = trie.try_emplace({at, byte}, kEnd);
      if (fresh) g_.read(at, byte, byte, found->second = g_.add_node());
      at = found->second;
    }
    g_.read_to(at, word.substr(word.size() - 1), to);
  }
}

// The names as a trie; where a text leaves the trie it goes on in `free`, the loop of plain characters, at the same place within
// a character. `free` reads each byte to one node at most, so that the place is a node, too.
Node JsonGrammar::other_key(const std::vector<std::string>& names) {
  const Node start = g_.add_node(), free = g_.add_node();
  add_plain_character(free, free);
  g_.read_to(free, "\"", kEnd);
  const auto step = [&](Node at, int byte) -> std::optional<Node> {
    for (const Grammar::Edge& edge : g_.edges(at))
      if (byte >= edge.low && byte <= edge.high) return edge.to;
    return std::nullopt;
  };
  struct Place {
    std::map<uint8_t, size_t> children;
    Node node, in_free;
    bool is_name = false;
  };
  std::vector<Place> trie = {{.node = g_.read(start, "\""), .in_free = free}};
  for (const std::string& name : names) {
    const auto special = [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == '"' || c == '\\'; };
    if (std::any_of(name.begin(), name.end(), special)) continue;  // needs an escape, and there is none here
    size_t at = 0;
    for (char c : name) {
      const auto [child, fresh] = trie[at].children.try_emplace(static_cast<uint8_t>(c), trie.size());
      const size_t next = child->second;
      if (fresh)
        trie.push_back({.node = g_.add_node(), .in_free = step(trie[at].in_free, static_cast<uint8_t>(c)).value()});
      at = next;
    }
    trie[at].is_name = true;
  }
  for (const Place& place : trie) {
    std::array<std::optional<Node>, 256> to;  // of each byte
    for (int byte = 0; byte < 256; ++byte) {
      const auto child = place.children.find(static_cast<uint8_t>(byte));
      if (child != place.children.end()) to[static_cast<size_t>(byte)] = trie[child->second].node;
      else if (byte != '"' || !place.is_name) to[static_cast<size_t>(byte)] = step(place.in_free, byte);
    }
    for (size_t low = 0, high = 0; high < 256; low = high) {
      while (high < 256 && to[high] == to[low]) ++high;
      if (to[low]) g_.read(place.node, static_cast<uint8_t>(low), static_cast<uint8_t>(high - 1), *to[low]);
    }
  }
  return start;
}

}  // namespace linnet::runtime
