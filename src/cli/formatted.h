// Text of tables: as printf writes it, and numbers as people read them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "core/text.h"

namespace linnet::cli {

template <class... Values>
std::string formatted(const char* format, Values... values) {
  char text[240];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

inline std::string count(int64_t n) { return count_text(static_cast<uint64_t>(n)); }
inline std::string size(int64_t bytes) { return bytes_text(static_cast<uint64_t>(bytes)); }

}  // namespace linnet::cli
