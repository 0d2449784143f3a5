// How many rows of an elementwise op go to a thread at once.
#pragma once

#include <algorithm>

#include "core/thread_pool.h"

namespace linnet::ops {

// A share of the rows for each thread, but not fewer than `least` elements, below which another thread costs more than it saves (a
// region takes about half a microsecond while its workers look for one), and not more than `most`, so that a large call is shared evenly.
struct Grain {
  int64_t least, most;

  int64_t rows(int64_t n, int64_t row_elements, const ThreadPool& pool) const {
    const int64_t width = std::max<int64_t>(row_elements, 1), share = (n + pool.size() - 1) / pool.size();
    const int64_t low = std::max<int64_t>(least / width, 1);
    return std::clamp(share, low, std::max(most / width, low));
  }
};

}  // namespace linnet::ops
