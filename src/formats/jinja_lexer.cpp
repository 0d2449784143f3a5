#include "formats/jinja_lexer.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::formats::jinja {

namespace {

bool is_space(char32_t c) { return strip(TextView(&c, 1), {}, true, false).empty(); }
bool is_digit(char32_t c) { return c >= U'0' && c <= U'9'; }
bool is_letter(char32_t c) { return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z') || c == U'_'; }

// Line breaks as \n; one at the end of the file does not count.
Text normalised(std::string_view source) {
  Text text = replace(text_of(source), U"\r\n", U"\n", -1);
  std::replace(text.begin(), text.end(), U'\r', U'\n');
  if (text.ends_with(U'\n')) text.pop_back();
  return text;
}

class Lexer {
 public:
  Lexer(const std::string& name, std::string_view source) : name_(name), source_(normalised(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) data();
    push(TokenKind::end, {}, at_);
    return std::move(tokens_);
  }

 private:
  TextView rest(size_t from) const { return TextView(source_).substr(std::min(from, source_.size())); }
  bool next_is(TextView text) const { return rest(at_).starts_with(text); }
  void skip_space() {
    while (at_ < source_.size() && is_space(source_[at_])) ++at_;
  }

  // Places come in ascending order, except for errors.
  void push(TokenKind kind, Text text, size_t at) {
    Token token{kind, 0, 0, std::move(text)};
    locate(at, token.line, token.column);
    tokens_.push_back(std::move(token));
  }
  void locate(size_t at, int& line, int& column) {
    for (; located_ < at; ++located_) {
      if (source_[located_] == U'\n') ++line_, line_start_ = located_ + 1;
    }
    line = line_, column = static_cast<int>(at - line_start_) + 1;
  }
  [[noreturn]] void fail(size_t at, std::string_view what) {
    int line, column;
    locate(at, line, column);
    throw FormatError(cat(name_, ":", line, ":", column, ": ", what));
  }

  // Text up to the next tag, and the tag.
  void data() {
    const size_t begin = at_;
    while (at_ < source_.size() && !next_is(U"{{") && !next_is(U"{%") && !next_is(U"{#")) ++at_;
    if (at_ == source_.size()) return push_data(begin, at_);
    const size_t tag = at_;
    const char32_t kind = source_[tag + 1], sign = tag + 2 < source_.size() ? source_[tag + 2] : 0;
    push_data(begin, stripped_end(begin, tag, sign, kind == U'{'));
    at_ = tag + 2 + (sign == U'-' || sign == U'+');
    after_line_break_ = false;
    if (kind == U'#') return comment(tag);
    if (kind == U'%' && raw(tag)) return;
    push(kind == U'{' ? TokenKind::output_begin : TokenKind::block_begin, {}, tag);
    inside_tag(kind == U'{', tag);
  }

  void push_data(size_t begin, size_t end) {
    if (begin < end) push(TokenKind::data, source_.substr(begin, end - begin), begin);
  }

  // Where data [begin, end) ends after what the tag at its end strips: all white space with '-'; else, for a block or a
  // comment that begins its line, the white space before it (lstrip_blocks), unless '+'.
  size_t stripped_end(size_t begin, size_t end, char32_t sign, bool output) const {
    const TextView text = TextView(source_).substr(begin, end - begin);
    if (sign == U'-') return begin + strip(text, {}, false, true).size();
    const size_t line = text.rfind(U'\n') + 1;  // npos + 1 == 0
    if (sign == U'+' || output || (line == 0 && !after_line_break_)) return end;
    return strip(text.substr(line), {}, true, false).empty() ? begin + line : end;
  }

  // Consumes the end of a block or comment if it stands here: "-%}" takes the white space after it, "%}" one line break
  // (trim_blocks), "+%}" nothing.
  bool tag_end(TextView mark) {
    const char32_t sign = source_[at_] == U'-' || source_[at_] == U'+' ? source_[at_] : 0;
    if (!rest(at_ + (sign != 0)).starts_with(mark)) return false;
    at_ += mark.size() + (sign != 0);
    if (sign == U'-') skip_space();
    if (sign == 0 && next_is(U"\n")) ++at_, after_line_break_ = true;
    return true;
  }

  void comment(size_t tag) {
    for (; at_ < source_.size(); ++at_) {
      if (tag_end(U"#}")) return;
    }
    fail(tag, "expected a comment that ends with #}, got none");
  }

  // {% raw %} .. {% endraw %}: what is between is data.
  bool raw(size_t tag) {
    const size_t start = at_;
    skip_space();
    const bool found =
        next_is(U"raw") && !(at_ + 3 < source_.size() && (is_letter(source_[at_ + 3]) || is_digit(source_[at_ + 3])));
    if (found) at_ += 3, skip_space();
    if (!found || !(next_is(U"%}") || next_is(U"-%}"))) return at_ = start, false;
    const bool strips = next_is(U"-%}");
    at_ += strips ? 3 : 2;
    if (strips) skip_space();
    const size_t begin = at_;
    for (; at_ < source_.size(); ++at_) {
      if (!next_is(U"{%")) continue;
      const size_t end = at_;
      const char32_t sign = at_ + 2 < source_.size() ? source_[at_ + 2] : 0;
      at_ += 2 + (sign == U'-' || sign == U'+');
      skip_space();
      if (next_is(U"endraw")) {
        at_ += 6, skip_space();
        if (at_ < source_.size() && tag_end(U"%}")) {
          push_data(begin, stripped_end(begin, end, sign, false));
          return true;
        }
      }
      at_ = end;
    }
    fail(tag, "expected a raw block that ends with {% endraw %}, got none");
  }

  void inside_tag(bool output, size_t tag) {
    std::vector<char32_t> brackets;
    for (;;) {
      skip_space();
      if (at_ == source_.size())
        fail(tag, output ? "expected an output that ends with }}, got none"
                         : "expected a block that ends with %}, got none");
      const size_t begin = at_;
      if (brackets.empty() && output && (next_is(U"}}") || next_is(U"-}}"))) {
        const bool strips = source_[at_] == U'-';
        at_ += strips ? 3 : 2;
        if (strips) skip_space();
        return push(TokenKind::output_end, {}, begin);
      }
      if (brackets.empty() && !output && tag_end(U"%}")) return push(TokenKind::block_end, {}, begin);
      token(brackets);
    }
  }

  void token(std::vector<char32_t>& brackets) {
    const size_t begin = at_;
    const char32_t c = source_[at_];
    if (is_letter(c)) {
      while (at_ < source_.size() && (is_letter(source_[at_]) || is_digit(source_[at_]))) ++at_;
      push(TokenKind::name, source_.substr(begin, at_ - begin), begin);
    } else if (is_digit(c)) {
      number();
    } else if (c == U'\'' || c == U'"') {
      string(c);
    } else {
      for (TextView op : {U"//", U"**", U"==", U"!=", U">=", U"<="}) {
        if (next_is(op)) {
          at_ += 2;
          return push(TokenKind::op, Text(op), begin);
        }
      }
      if (TextView(U"+-/*%~[](){}<>=.:|,").find(c) == TextView::npos) {
        fail(begin, cat("expected an expression, got \"", printable(utf8_of(TextView(&c, 1)), 10), "\""));
      }
      balance(c, brackets);
      ++at_;
      push(TokenKind::op, Text(1, c), begin);
    }
  }

  void balance(char32_t c, std::vector<char32_t>& brackets) {
    if (c == U'(' || c == U'[' || c == U'{') brackets.push_back(c == U'(' ? U')' : c == U'[' ? U']' : U'}');
    if (c != U')' && c != U']' && c != U'}') return;
    if (brackets.empty() || brackets.back() != c)
      fail(at_, cat("expected no \"", static_cast<char>(c), "\" here, got one"));
    brackets.pop_back();
  }

  // 42, 1_000, 1.5, 2e-3. After a dot only digits: a.0.1 is two subscripts.
  void number() {
    const size_t begin = at_;
    Text digits;
    const auto take_digits = [&] {
      while (at_ < source_.size() &&
             (is_digit(source_[at_]) ||
              (source_[at_] == U'_' && is_digit(rest(at_ + 1).empty() ? 0 : source_[at_ + 1])))) {
        if (source_[at_] != U'_') digits += source_[at_];
        ++at_;
      }
    };
    const auto digit_at = [&](size_t at) { return at < source_.size() && is_digit(source_[at]); };
    const bool subscript = !tokens_.empty() && tokens_.back().is(TokenKind::op, U".");
    bool real = false;
    take_digits();
    if (!subscript && next_is(U".") && digit_at(at_ + 1)) {
      real = true, digits += source_[at_++];
      take_digits();
    }
    if (!subscript && (next_is(U"e") || next_is(U"E"))) {
      const size_t sign = at_ + 1 < source_.size() && (source_[at_ + 1] == U'+' || source_[at_ + 1] == U'-') ? 1 : 0;
      if (digit_at(at_ + 1 + sign)) {
        real = true, digits += rest(at_).substr(0, 1 + sign), at_ += 1 + sign;
        take_digits();
      }
    }
    if (at_ < source_.size() && is_letter(source_[at_]))
      fail(begin, "expected a number in decimal digits, got a letter in it");
    push(real ? TokenKind::real : TokenKind::integer, std::move(digits), begin);
  }

  // Python's escapes; an unknown one stays as it is.
  void string(char32_t quote) {
    const size_t begin = at_++;
    Text content;
    for (; at_ < source_.size() && source_[at_] != quote; ++at_) {
      if (source_[at_] != U'\\' || at_ + 1 == source_.size()) {
        content += source_[at_];
        continue;
      }
      const char32_t c = source_[++at_];
      const size_t known = TextView(U"abfnrtv\\'\"").find(c);
      if (known != TextView::npos) {
        content += U"\a\b\f\n\r\t\v\\'\""[known];
      } else if (c == U'x' || c == U'u' || c == U'U') {
        content += escaped_code(c == U'x' ? 2 : c == U'u' ? 4 : 8, 16, begin);
      } else if (c >= U'0' && c <= U'7') {
        fail(at_, "string: expected \\x, \\u or \\n, got an octal escape");
      } else if (c == U'N') {
        fail(at_, "string: expected \\x, \\u or \\n, got a named escape");
      } else if (c != U'\n') {
        content += U'\\';
        content += c;
      }
    }
    if (at_ == source_.size()) fail(begin, "expected a string that ends, got none");
    ++at_;
    push(TokenKind::string, std::move(content), begin);
  }

  char32_t escaped_code(size_t n, char32_t base, size_t begin) {
    char32_t code = 0;
    for (size_t i = 0; i < n; ++i) {
      const char32_t c = ++at_ < source_.size() ? source_[at_] : 0;
      const size_t digit = TextView(U"0123456789abcdef").find(c | (c >= U'A' && c <= U'F' ? 0x20 : 0));
      if (digit == TextView::npos) fail(begin, cat("string: expected ", n, " hexadecimal digits in an escape"));
      code = code * base + static_cast<char32_t>(digit);
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
      fail(begin, "string: expected an escape of a character, got none");
    return code;
  }

  const std::string& name_;
  const Text source_;
  size_t at_ = 0;
  bool after_line_break_ = true;  // the data that comes begins a line
  std::vector<Token> tokens_;
  size_t located_ = 0, line_start_ = 0;
  int line_ = 1;
};

}  // namespace

std::vector<Token> tokens_of(const std::string& name, std::string_view source) { return Lexer(name, source).run(); }

}  // namespace linnet::formats::jinja
