// Base64 (RFC 4648, section 4: with padding, no line breaks), as ranks files use it.
#pragma once

#include <string>
#include <string_view>

namespace linnet::formats {

// Appends the decoded bytes. False when the text is not canonical base64: length no multiple of 4, a foreign character,
// padding anywhere but at the end, or padding bits that are not zero (so that each byte string has one spelling).
bool append_base64_decoded(std::string_view text, std::string& out);

std::string base64_encoded(std::string_view bytes);

}  // namespace linnet::formats
