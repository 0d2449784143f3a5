// The tasks of many items in one parallel region: small items run side by side, large ones are cut.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/thread_pool.h"

namespace linnet {

// body(item, task) for the tasks [0, count(item)) of each item in [0, n_items); threads take `grain` tasks at a time. Tasks are
// independent, of about equal work. Allocates 8 bytes an item.
template <class Count, class Body>
void for_tasks(ThreadPool& pool, int64_t n_items, int64_t grain, const Count& count, const Body& body) {
  std::vector<int64_t> ends;  // of each item's tasks in the list of all
  ends.reserve(static_cast<size_t>(n_items));
  int64_t total = 0;
  for (int64_t item = 0; item < n_items; ++item) ends.push_back(total += count(item));
  pool.parallel_for(total, grain, [&](int64_t begin, int64_t end, int) {
    auto item = std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin();
    for (int64_t task = begin; task < end; ++task) {
      while (ends[static_cast<size_t>(item)] <= task) ++item;
      body(static_cast<int64_t>(item), task - (item > 0 ? ends[static_cast<size_t>(item) - 1] : 0));
    }
  });
}

}  // namespace linnet
