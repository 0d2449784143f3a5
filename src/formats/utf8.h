// UTF-8 from bytes that may be anything: one step at a time, how much is well-formed, and repair for display.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace linnet::formats {

enum class Utf8Kind : uint8_t { valid, invalid, incomplete };

// What stands at the front of a text.
//   valid       a code point of `length` bytes
//   invalid     `length` bytes that begin no code point (the maximal ill-formed subpart of the Unicode standard, section 3.9)
//   incomplete  the text ends inside a sequence that is well-formed so far; `length` is the rest of the text
struct Utf8Step {
  char32_t code;
  uint8_t length;
  Utf8Kind kind;
};

Utf8Step utf8_step(std::string_view text) noexcept;  // text not empty

size_t utf8_valid_prefix(std::string_view text) noexcept;  // bytes of the longest well-formed beginning

void append_utf8(char32_t code, std::string& out);

// Text with U+FFFD in place of each ill-formed subpart, as Python's bytes.decode("utf-8", "replace") gives it.
std::string to_valid_utf8(std::string_view bytes);

// Python's str.isspace() for one character: White_Space, and the separators U+001C..U+001F.
bool is_python_space(char32_t code) noexcept;

}  // namespace linnet::formats
