#include "formats/jinja_text.h"

#include <locale.h>
#include <wctype.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>

#include "core/errors.h"
#include "core/text.h"
#include "formats/utf8.h"

namespace linnet::formats::jinja {

namespace {

constexpr char32_t kByteBase = 0xdc00;

bool is_stray_byte(char32_t code) { return code >= kByteBase + 0x80 && code <= kByteBase + 0xff; }

// Case is Unicode's, whatever locale the process runs in: one character to one (no SS for U+00DF).
locale_t unicode_locale() {
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  if (!locale) throw InternalError("jinja: the system has no locale C.UTF-8");
  return locale;
}

char32_t to_upper(char32_t c) {
  return static_cast<char32_t>(towupper_l(code_of(c), unicode_locale())) | (c & kForeign);
}
char32_t to_lower(char32_t c) {
  return static_cast<char32_t>(towlower_l(code_of(c), unicode_locale())) | (c & kForeign);
}

// One character that is neither "other" nor a separator: what Python's repr() writes as it is.
class PrintablePattern {
 public:
  PrintablePattern() {
    int error = 0;
    PCRE2_SIZE at = 0;
    const auto* pattern = reinterpret_cast<PCRE2_SPTR>("[^\\p{C}\\p{Z}]");
    code_.reset(pcre2_compile(pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &at, nullptr));
    if (!code_) throw InternalError(cat("jinja: pattern of printable characters: PCRE2 error ", error));
  }
  bool matches(const std::string& utf8) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> match(pcre2_match_data_create(1, nullptr),
                                                                                    &pcre2_match_data_free);
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(utf8.data()), utf8.size(), 0, 0, match.get(),
                       nullptr) > 0;
  }

 private:
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code_{nullptr, &pcre2_code_free};
};

const PrintablePattern& printable_pattern() {
  static const PrintablePattern pattern;
  return pattern;
}

template <class F>
Text mapped(TextView text, F map) {
  Text out(text);
  for (size_t i = 0; i < out.size(); ++i) out[i] = map(i, out[i]);
  return out;
}

template <class EndsWord>
Text titled(TextView text, EndsWord ends_word) {
  bool in_word = false;
  return mapped(text, [&](size_t, char32_t c) {
    const char32_t cased = in_word ? to_lower(c) : to_upper(c);
    in_word = !ends_word(code_of(c));
    return cased;
  });
}

}  // namespace

Text text_of(std::string_view utf8, Origin origin) {
  const char32_t mark = origin == Origin::foreign ? kForeign : 0;
  Text text;
  text.reserve(utf8.size());
  while (!utf8.empty()) {
    const Utf8Step step = utf8_step(utf8);
    const bool valid = step.kind == Utf8Kind::valid;
    text += (valid ? step.code : kByteBase + static_cast<uint8_t>(utf8[0])) | mark;
    utf8.remove_prefix(valid ? step.length : 1);
  }
  return text;
}

std::string utf8_of(TextView text) {
  std::string out;
  out.reserve(text.size());
  for (char32_t c : text) {
    const char32_t code = code_of(c);
    if (is_stray_byte(code)) {
      out += static_cast<char>(code - kByteBase);
    } else {
      append_utf8(code, out);
    }
  }
  return out;
}

TextView strip(TextView text, TextView chars, bool left, bool right) {
  const auto strips = [&](char32_t c) {
    return chars.data() ? chars.find(c) != chars.npos : is_python_space(code_of(c));
  };
  while (left && !text.empty() && strips(text.front())) text.remove_prefix(1);
  while (right && !text.empty() && strips(text.back())) text.remove_suffix(1);
  return text;
}

Text upper(TextView text) {
  return mapped(text, [](size_t, char32_t c) { return to_upper(c); });
}
Text lower(TextView text) {
  return mapped(text, [](size_t, char32_t c) { return to_lower(c); });
}
Text capitalize(TextView text) {
  return mapped(text, [](size_t i, char32_t c) { return i == 0 ? to_upper(c) : to_lower(c); });
}
Text title(TextView text) {
  return titled(text, [](char32_t c) { return !iswupper_l(c, unicode_locale()) && !iswlower_l(c, unicode_locale()); });
}
Text title_filter(TextView text) {
  return titled(text, [](char32_t c) { return is_python_space(c) || TextView(U"-({[<").find(c) != TextView::npos; });
}

bool is_printable(char32_t code) {
  if (code < 0x7f) return code >= 0x20;
  if (code >= 0xd800 && code < 0xe000) return false;
  std::string utf8;
  append_utf8(code, utf8);
  return printable_pattern().matches(utf8);
}

Text replace(TextView text, TextView from, TextView to, int64_t count) {
  Text out;
  for (int64_t n = 0; count < 0 || n < count; ++n) {
    if (from.empty()) {  // before every character and at the end
      out += to;
      if (text.empty()) return out;
      out += text.front();
      text.remove_prefix(1);
      continue;
    }
    const size_t at = text.find(from);
    if (at == text.npos) break;
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
  }
  return out += text;
}

}  // namespace linnet::formats::jinja
