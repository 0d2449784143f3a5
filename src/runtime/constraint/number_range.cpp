#include "runtime/constraint/number_range.h"

#include <algorithm>
#include <charconv>
#include <tuple>

namespace linnet::runtime {
namespace {

using Node = Grammar::Node;
constexpr Node kEnd = Grammar::kEnd;

uint8_t digit_at(const Decimal& d, size_t at) {
  if (at < d.whole.size()) return static_cast<uint8_t>(d.whole[at]);
  at -= d.whole.size();
  return at < d.fraction.size() ? static_cast<uint8_t>(d.fraction[at]) : uint8_t{'0'};
}

// Whether nothing but zeros stands from digit `at` on.
bool ends_at(const Decimal& d, size_t at) {
  return at >= d.whole.size() + d.fraction.size() ||
         (d.fraction.empty() && d.whole.find_first_not_of('0', at) == std::string::npos);
}

}  // namespace

Decimal Decimal::parse(std::string_view number) {
  Decimal out;
  const bool negative = number.starts_with('-');
  number.remove_prefix(negative ? 1 : 0);
  const size_t e = std::min(number.find_first_of("eE"), number.size());
  int exponent = 0;
  if (e < number.size()) {
    const size_t from = e + (number[e + 1] == '+' ? 2 : 1);
    std::from_chars(number.data() + from, number.data() + number.size(), exponent);
    number = number.substr(0, e);
  }
  const size_t point = std::min(number.find('.'), number.size());
  std::string digits(number.substr(0, point));
  if (point < number.size()) digits += number.substr(point + 1);
  int64_t n_whole = static_cast<int64_t>(point) + exponent;
  if (n_whole < 0) digits = std::string(static_cast<size_t>(-n_whole), '0') + digits, n_whole = 0;
  digits.resize(std::max(digits.size(), static_cast<size_t>(n_whole)), '0');
  out.whole = digits.substr(0, static_cast<size_t>(n_whole)),
  out.fraction = digits.substr(static_cast<size_t>(n_whole));
  out.whole.erase(0, std::min(out.whole.find_first_not_of('0'), out.whole.size()));
  if (out.whole.empty()) out.whole.push_back('0');
  out.fraction.resize(out.fraction.find_last_not_of('0') + 1);
  out.negative = negative && (out.whole != "0" || !out.fraction.empty());
  return out;
}

bool Decimal::operator<(const Decimal& other) const {
  if (negative != other.negative) return negative;
  const Decimal &a = negative ? other : *this, &b = negative ? *this : other;  // magnitudes
  if (a.whole.size() != b.whole.size()) return a.whole.size() < b.whole.size();
  return std::pair(a.whole, a.fraction) < std::pair(b.whole, b.fraction);
}

Node NumberRange::between(const std::optional<Bound>& low, const std::optional<Bound>& high) {
  const Node start = g_.add_node();
  const auto below_zero = [](const std::optional<Bound>& b) { return b && b->value.negative; };
  if (!below_zero(high)) {
    const Bound zero{{.whole = "0"}, false};
    add_magnitudes(start, low && !below_zero(low) ? *low : zero, high);
  }
  if (!low || below_zero(low)) {
    const Bound zero{{.whole = "0"}, true};
    add_magnitudes(g_.read(start, "-"), below_zero(high) ? *high : zero, low);
  }
  return start;
}

// Digits of numbers without sign; of the bounds only the magnitudes count.
void NumberRange::add_magnitudes(Node from, const Bound& low, const std::optional<Bound>& high) {
  const size_t shortest = low.value.whole.size(), longest = high ? high->value.whole.size() : SIZE_MAX;
  if (shortest > std::min(longest, most_digits())) return;
  add_beside(from, shortest, &low, longest == shortest ? &*high : nullptr);
  if (longest == shortest) return;
  add_lengths(from, shortest + 1, std::min(longest - 1, most_digits()));
  if (longest <= most_digits()) add_beside(from, longest, nullptr, &*high);
}

// Any number of `least` to `most` digits before the point; at least 2.
void NumberRange::add_lengths(Node from, size_t least, size_t most) {
  for (size_t n = 1; least <= most && n <= most; ++n) {
    const Node next = g_.add_node();
    g_.read(from, n == 1 ? '1' : '0', '9', next);
    if (n >= least) add_fraction(next, n);
    from = next;
  }
}

// Numbers of `length` digits before the point, of which one or both of the bounds have as many.
struct NumberRange::Limits {
  size_t length;
  const Bound *low, *high;
  std::map<std::tuple<size_t, bool, bool>, Node> nodes;
};

void NumberRange::add_beside(Node from, size_t length, const Bound* low, const Bound* high) {
  Limits limits{length, low, high, {}};
  g_.skip(from, beside(limits, 0, low, high));
}

// The node behind `at` digits, which are those of the low bound, of the high one, or of both.
Node NumberRange::beside(Limits& limits, size_t at, bool low, bool high) {
  const size_t length = limits.length, all = length + fraction_digits(length);
  if (!low && !high) return at <= length ? free(length, at) : fraction(all - at);
  const auto [found, fresh] = limits.nodes.try_emplace({at, low, high}, kEnd);
  if (!fresh) return found->second;
  const Node node = found->second = g_.add_node();
  const auto out = [&](bool same, const Bound* bound) { return same && ends_at(bound->value, at) && bound->open; };
  const bool below = low && !ends_at(limits.low->value, at);
  if (at >= length && !below && !out(low, limits.low) && !out(high, limits.high)) g_.skip(node, kEnd);
  if (at == all) return node;
  const Node digit = at == length ? g_.read(node, ".") : node;
  const uint8_t least = low                     ? digit_at(limits.low->value, at)
                        : at == 0 && length > 1 ? '1'
                                                : '0',
                most = high ? digit_at(limits.high->value, at) : uint8_t{'9'};
  for (uint8_t d = least; d <= most; ++d)
    g_.read(digit, d, d, beside(limits, at + 1, low && d == least, high && d == most));
  return node;
}

Node NumberRange::free(size_t length, size_t read) {
  const auto [found, fresh] = free_.try_emplace({length, read}, kEnd);
  if (!fresh) return found->second;
  const Node node = found->second = g_.add_node();
  if (read == length) add_fraction(node, length);
  else g_.read(node, '0', '9', free(length, read + 1));
  return node;
}

// Behind the last of `length` digits before the point.
void NumberRange::add_fraction(Node from, size_t length) {
  g_.skip(from, kEnd);
  if (fraction_digits(length) == 0) return;
  g_.read(g_.read(from, "."), '0', '9', fraction(fraction_digits(length) - 1));
}

Node NumberRange::fraction(size_t most) {
  const auto [found, fresh] = fractions_.try_emplace(most, kEnd);
  if (!fresh) return found->second;
  const Node node = found->second = g_.add_node();
  g_.skip(node, kEnd);
  if (most > 0) g_.read(node, '0', '9', fraction(most - 1));
  return node;
}

}  // namespace linnet::runtime
