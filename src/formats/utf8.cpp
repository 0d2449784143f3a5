#include "formats/utf8.h"

#include <cstring>

namespace linnet::formats {

namespace {

struct Lead {
  uint8_t length;  // of the whole sequence; 0 = the byte begins none
  uint8_t first,
      last;  // range of the second byte (narrower than 80..BF where it excludes overlong forms and surrogates)
};

// Unicode standard, table 3-7.
Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xc2) return {0, 0, 0};
  if (byte < 0xe0) return {2, 0x80, 0xbf};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3, 0x80, 0xbf};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte < 0xf4) return {4, 0x80, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

size_t ascii_prefix(std::string_view text) {
  size_t n = 0;
  for (uint64_t word; n + 8 <= text.size(); n += 8) {
    std::memcpy(&word, text.data() + n, 8);
    if (word & 0x8080808080808080u) break;
  }
  while (n < text.size() && static_cast<uint8_t>(text[n]) < 0x80) ++n;
  return n;
}

}  // namespace

Utf8Step utf8_step(std::string_view text) noexcept {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const Lead lead = lead_of(byte(0));
  if (lead.length == 0) return {byte(0), 1, Utf8Kind::invalid};
  if (lead.length == 1) return {byte(0), 1, Utf8Kind::valid};

  char32_t code = byte(0) & (0x7fu >> lead.length);
  for (uint8_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {byte(0), i, Utf8Kind::incomplete};
    const uint8_t low = i == 1 ? lead.first : 0x80, high = i == 1 ? lead.last : 0xbf;
    if (byte(i) < low || byte(i) > high) return {byte(0), i, Utf8Kind::invalid};
    code = code << 6 | (byte(i) & 0x3fu);
  }
  return {code, lead.length, Utf8Kind::valid};
}

size_t utf8_valid_prefix(std::string_view text) noexcept {
  size_t n = 0;
  while (n < text.size()) {
    n += ascii_prefix(text.substr(n));
    if (n == text.size()) break;
    const Utf8Step step = utf8_step(text.substr(n));
    if (step.kind != Utf8Kind::valid) break;
    n += step.length;
  }
  return n;
}

void append_utf8(char32_t code, std::string& out) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6), put(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  } else {
    put(0xf0 | code >> 18), put(0x80 | (code >> 12 & 0x3f)), put(0x80 | (code >> 6 & 0x3f)), put(0x80 | (code & 0x3f));
  }
}

std::string to_valid_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t n = utf8_valid_prefix(bytes);
    out += bytes.substr(0, n);
    bytes.remove_prefix(n);
    if (bytes.empty()) break;
    bytes.remove_prefix(utf8_step(bytes).length);
    append_utf8(0xfffd, out);
  }
  return out;
}

bool is_python_space(char32_t code) noexcept {
  if (code < 0x80) return code == ' ' || (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x1f);
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
         code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

}  // namespace linnet::formats
