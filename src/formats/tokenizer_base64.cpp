#include "formats/tokenizer_base64.h"

#include <array>
#include <cstdint>

namespace linnet::formats {

namespace {

constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr uint32_t kForeign = 0x8000'0000;  // survives the shifts and ors of a group

constexpr std::array<uint32_t, 256> kValues = [] {
  std::array<uint32_t, 256> values{};
  values.fill(kForeign);
  for (uint32_t i = 0; i < 64; ++i) values[static_cast<uint8_t>(kDigits[i])] = i;
  return values;
}();

uint32_t value_of(char c) { return kValues[static_cast<uint8_t>(c)]; }

}  // namespace

bool append_base64_decoded(std::string_view text, std::string& out) {
  if (text.size() % 4 != 0) return false;
  size_t padding = 0;
  while (padding < 2 && padding < text.size() && text[text.size() - 1 - padding] == '=') ++padding;

  for (size_t at = 0; at < text.size(); at += 4) {
    const size_t pad = at + 4 == text.size() ? padding : 0;
    const uint32_t a = value_of(text[at]), b = value_of(text[at + 1]);
    const uint32_t c = pad > 1 ? 0 : value_of(text[at + 2]), d = pad > 0 ? 0 : value_of(text[at + 3]);
    if ((a | b | c | d) & kForeign) return false;
    const uint32_t group = a << 18 | b << 12 | c << 6 | d;
    if ((pad == 1 && (group & 0xff)) || (pad == 2 && (group & 0xffff))) return false;
    const char bytes[3] = {static_cast<char>(group >> 16), static_cast<char>(group >> 8), static_cast<char>(group)};
    out.append(bytes, 3 - pad);
  }
  return true;
}

std::string base64_encoded(std::string_view bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    const size_t n = std::min<size_t>(3, bytes.size() - at);
    uint32_t group = 0;
    for (size_t i = 0; i < 3; ++i) group = group << 8 | (i < n ? static_cast<uint8_t>(bytes[at + i]) : 0u);
    for (size_t i = 0; i < 4; ++i) out += i <= n ? kDigits[group >> (18 - 6 * i) & 63] : '=';
  }
  return out;
}

}  // namespace linnet::formats
