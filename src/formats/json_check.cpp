#include "formats/json_check.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

#include "core/text.h"

namespace linnet::formats {
namespace {

using nlohmann::json;

class Checker : public json::json_sax_t {
 public:
  Checker(const std::string& place, const JsonLimits& limits) : place_(place), limits_(limits) {}

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(int64_t) override { return value(); }
  bool number_unsigned(uint64_t) override { return value(); }
  bool number_float(double, const std::string&) override { return value(); }
  bool string(std::string&) override { return value() && part(); }
  bool binary(json::binary_t&) override { return true; }  // not in JSON

  bool start_object(size_t) override {
    keys_.emplace_back();
    return open();
  }
  bool start_array(size_t) override { return open(); }
  bool key(std::string& name) override {
    if (!keys_.back().insert(name).second)
      throw FormatError(cat(place_, ": \"", printable(name, 60), "\": expected one such key, got two in one object"));
    if (keys_.back().size() > limits_.members) refuse(limits_.members, "members of one object");
    return part();
  }
  bool end_object() override {
    keys_.pop_back();
    --level_;
    return true;
  }
  bool end_array() override {
    --level_;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception& e) override {
    const std::string_view what = e.what();
    if (!dynamic_cast<const json::parse_error*>(&e))  // a number beyond double
      throw FormatError(cat(place_, ": expected JSON, got ", printable(what, 160)));
    const size_t detail = what.rfind(": syntax error");
    throw FormatError(cat(place_, ": byte ", position == 0 ? 0 : position - 1, ": expected JSON, got ",
                          printable(what.substr(detail == what.npos ? 0 : detail + 2), 160)));
  }

 private:
  bool open() {
    if (++level_ > limits_.levels) refuse(static_cast<size_t>(limits_.levels), "levels of nesting");
    return value() && part();
  }
  bool value() {
    if (++n_values_ > limits_.values) refuse(limits_.values, "values");
    return true;
  }
  bool part() {
    if (++n_parts_ > limits_.parts) refuse(limits_.parts, "strings, keys, arrays and objects");
    return true;
  }
  [[noreturn]] void refuse(size_t limit, const char* of) const {
    throw JsonLimitError(cat(place_, ": expected at most ", limit, " ", of, ", got more"));
  }

  const std::string& place_;
  const JsonLimits limits_;
  int level_ = 0;
  size_t n_values_ = 0, n_parts_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

// A place in a text that has been checked.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {
    constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";  // which the parser skips, too
    if (text.starts_with(kByteOrderMark)) i_ = kByteOrderMark.size();
    space();
  }

  bool at(char c) const { return text_[i_] == c; }
  void step() {
    ++i_;
    space();
  }
  // A string with its quotes.
  std::string_view string() {
    const size_t begin = i_++;
    while (text_[i_] != '"') i_ += text_[i_] == '\\' ? 2 : 1;
    const std::string_view found = text_.substr(begin, ++i_ - begin);
    space();
    return found;
  }
  std::string_view value() {
    const size_t begin = i_;
    int open = 0;
    do {
      if (at('"')) string();
      else if (at('{') || at('[')) ++open, ++i_;
      else if (at('}') || at(']')) --open, ++i_;
      else if (open > 0) ++i_;
      else i_ = std::min(text_.find_first_of(",}] \t\r\n", i_), text_.size());
    } while (open > 0);
    const std::string_view found = text_.substr(begin, i_ - begin);
    space();
    return found.substr(0, found.find_last_not_of(" \t\r\n") + 1);
  }

 private:
  void space() { i_ = std::min(text_.find_first_not_of(" \t\r\n", i_), text_.size()); }

  std::string_view text_;
  size_t i_ = 0;
};

std::string_view member(std::string_view text, std::string_view name) {
  Scanner scan(text);
  if (text.empty() || !scan.at('{')) return {};
  for (scan.step(); !scan.at('}');) {
    const std::string_view key = scan.string();
    scan.step();  // the colon
    const std::string_view value = scan.value();
    if (json::parse(key).get_ref<const std::string&>() == name) return value;
    if (scan.at(',')) scan.step();
  }
  return {};
}

}  // namespace

void check_json(std::string_view text, const std::string& place, const JsonLimits& limits) {
  if (const size_t at = text.find('\0'); at != text.npos)  // the parser takes it for the end
    throw FormatError(cat(place, ": byte ", at, ": expected JSON, got a NUL byte"));
  Checker checker(place, limits);
  json::sax_parse(text.begin(), text.end(), &checker);
}

std::string_view json_member(std::string_view text, std::initializer_list<std::string_view> path) {
  for (const std::string_view name : path) text = member(text, name);
  return text;
}

}  // namespace linnet::formats
