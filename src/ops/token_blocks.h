// Sums over tokens in an order that does not depend on the thread count: the number of tokens alone cuts them into blocks, each
// block leaves a sum of its own, and these are added in order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/exec.h"

namespace linnet::ops {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// At most `most` blocks, so that their sums stay small beside the data; at least kMinTokens in each but the last.
struct TokenBlocks {
  static constexpr int64_t kMost = 128, kMinTokens = 32;

  int64_t n_tokens, size, count;

  explicit TokenBlocks(int64_t n, int64_t most = kMost)
      : n_tokens(n), size(std::max(kMinTokens, ceil_div(n, most))), count(ceil_div(n, size)) {}

  int64_t begin(int64_t block) const { return block * size; }
  int64_t end(int64_t block) const { return std::min(n_tokens, (block + 1) * size); }

  // Bounds count from above and, unlike it, never falls when n grows: for workspace sizes.
  static int64_t bound(int64_t n, int64_t most = kMost) { return std::min(most, ceil_div(n, kMinTokens)); }
};

// out[i] += sum over blocks of sums[block * n + i], i < n; in double, one rounding.
inline void add_block_sums(const Exec& exec, const float* sums, int64_t n_blocks, int64_t n, float* out) noexcept {
  constexpr int64_t kColumns = 256, kGrainElements = 32768;
  const auto add_columns = [&](int64_t begin, int64_t end, int) {
    for (int64_t first = begin * kColumns; first < std::min(n, end * kColumns); first += kColumns) {
      double sum[kColumns] = {};
      const int64_t columns = std::min(kColumns, n - first);
      for (int64_t block = 0; block < n_blocks; ++block)
        for (int64_t i = 0; i < columns; ++i) sum[i] += double{sums[block * n + first + i]};
      for (int64_t i = 0; i < columns; ++i) out[first + i] = static_cast<float>(out[first + i] + sum[i]);
    }
  };
  if (n_blocks > 0)
    exec.pool.parallel_for(ceil_div(n, kColumns), ceil_div(kGrainElements, kColumns * n_blocks), add_columns);
}

}  // namespace linnet::ops
