// Numbers between bounds, as rules of a grammar: digit by digit, beside the digits of the bounds as long as they are the same.
//
// Numbers are written without exponent and without "-0": integers of at most 18 digits; others with at most 15 digits in all. No two
// decimals of 15 digits are the same double, so a bound means the same whether it is compared as decimals or as doubles.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/constraint/grammar.h"

namespace linnet::runtime {

struct Decimal {
  bool negative = false;
  std::string whole, fraction;  // digits; whole without leading zeros but for "0", fraction without zeros behind

  static Decimal parse(std::string_view number);  // as JSON writes it
  bool operator<(const Decimal& other) const;
};

struct Bound {
  Decimal value;
  bool open;  // the value itself is out
};

class NumberRange {
 public:
  using Node = Grammar::Node;
  enum class Kind : uint8_t { integer, number };

  NumberRange(Grammar& grammar, Kind kind) : g_(grammar), kind_(kind) {}

  Kind kind() const { return kind_; }
  static constexpr size_t most_digits(Kind kind) { return kind == Kind::integer ? 18 : 15; }

  // Where the numbers between the bounds begin; none: without end on that side. No way where there are no such numbers.
  Node between(const std::optional<Bound>& low, const std::optional<Bound>& high);

 private:
  struct Limits;
  void add_magnitudes(Node from, const Bound& low, const std::optional<Bound>& high);
  void add_lengths(Node from, size_t least, size_t most);
  void add_beside(Node from, size_t length, const Bound* low, const Bound* high);
  Node beside(Limits& limits, size_t at, bool low, bool high);
  void add_fraction(Node from, size_t length);
  Node fraction(size_t most);
  Node free(size_t length, size_t read);

  size_t most_digits() const { return most_digits(kind_); }
  size_t fraction_digits(size_t length) const { return kind_ == Kind::integer ? 0 : most_digits() - length; }

  Grammar& g_;
  Kind kind_;
  // Shared by all ranges: what no bound holds any more.
  std::map<std::pair<size_t, size_t>, Node> free_;  // so many digits before the point, so many of them read
  std::map<size_t, Node> fractions_;                // at most so many digits follow
};

}  // namespace linnet::runtime
