// Copying and clearing much memory with all threads: one thread does not reach the memory's bandwidth.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/exec.h"

namespace linnet {

constexpr int64_t kBulkBytes = 256 << 10;  // that a thread takes at a time

inline void copy_bytes(void* to, const void* from, int64_t bytes, const Exec& exec) noexcept {
  const auto body = [&](int64_t begin, int64_t end, int) {
    std::memcpy(static_cast<std::byte*>(to) + begin, static_cast<const std::byte*>(from) + begin,
                static_cast<size_t>(end - begin));
  };
  exec.pool.parallel_for(bytes, kBulkBytes, body);
}

inline void clear_bytes(void* to, int64_t bytes, const Exec& exec) noexcept {
  const auto body = [&](int64_t begin, int64_t end, int) {
    std::memset(static_cast<std::byte*>(to) + begin, 0, static_cast<size_t>(end - begin));
  };
  exec.pool.parallel_for(bytes, kBulkBytes, body);
}

}  // namespace linnet
