// Text for messages: concatenation, shapes and byte counts. (std::format is not in libstdc++ 12.)
#pragma once

#include <cstdint>
#include <span>
#include <sstream>
#include <string>
#include <string_view>

namespace linnet {

// cat("layer ", 3, ": expected ", 64) -> "layer 3: expected 64"
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

std::string shape_text(std::span<const int64_t> shape);  // "[4096, 16]"
std::string bytes_text(uint64_t bytes);                  // "1.44 GiB", "512 B"
std::string count_text(uint64_t count);                  // "49,122,681,728"
std::string printable(std::string_view raw,
                      size_t max);  // control and non-ASCII bytes escaped, cut to max bytes with "..."

}  // namespace linnet
