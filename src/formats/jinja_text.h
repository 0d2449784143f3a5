// Text inside a template: code points that remember whether the template wrote them or they came from outside.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace linnet::formats::jinja {

// A character is a code point, and in bit 31 its provenance: set = foreign, it came from outside (a message, a tool). Cutting,
// joining and replacing move characters, so the mark goes where the character goes and no operation has to care for it.
// Comparing and searching look at code points alone.
constexpr char32_t kForeign = 0x8000'0000;
constexpr char32_t code_of(char32_t c) { return c & ~kForeign; }

struct TextTraits : std::char_traits<char32_t> {
  static constexpr bool eq(char32_t a, char32_t b) noexcept { return code_of(a) == code_of(b); }
  static constexpr bool lt(char32_t a, char32_t b) noexcept { return code_of(a) < code_of(b); }
  static constexpr int compare(const char32_t* a, const char32_t* b, size_t n) {
    for (size_t i = 0; i < n; ++i) {
      if (!eq(a[i], b[i])) return lt(a[i], b[i]) ? -1 : 1;
    }
    return 0;
  }
  static constexpr const char32_t* find(const char32_t* text, size_t n, const char32_t& c) {
    for (size_t i = 0; i < n; ++i) {
      if (eq(text[i], c)) return text + i;
    }
    return nullptr;
  }
};
using Text = std::basic_string<char32_t, TextTraits>;
using TextView = std::basic_string_view<char32_t, TextTraits>;

enum class Origin : uint8_t { own, foreign };

// A byte that is part of no well-formed UTF-8 becomes U+DC00 + byte, which no UTF-8 holds, and utf8_of() gives it back.
Text text_of(std::string_view utf8, Origin origin = Origin::own);
std::string utf8_of(TextView text);

// Python's str methods of these names. chars: the set to strip; absent (data() == nullptr) = white space.
TextView strip(TextView text, TextView chars, bool left, bool right);
Text upper(TextView text);
Text lower(TextView text);
Text title(TextView text);         // a word begins after whatever has no case
Text title_filter(TextView text);  // Jinja's filter: after white space and one of -({[<
Text capitalize(TextView text);
bool is_printable(char32_t code);  // Python's str.isprintable() of one character, in PCRE2's Unicode version
Text replace(TextView text, TextView from, TextView to, int64_t count);  // count < 0: all

}  // namespace linnet::formats::jinja
