// The tasks of many items: each once, whatever the counts, the grain and the threads.
#include "core/task_list.h"

#include <gtest/gtest.h>

#include <atomic>

namespace linnet {
namespace {

TEST(TaskList, EveryTaskOfEveryItemOnce) {
  const std::vector<std::vector<int64_t>> counts = {{}, {0}, {1}, {0, 0, 3, 0, 1, 0}, {5, 200, 1, 1, 1, 1, 0, 90}};
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const auto& count : counts)
      for (int64_t grain : {1, 4, 1000}) {
        std::vector<std::vector<std::atomic<int>>> runs;
        for (int64_t n : count) runs.emplace_back(static_cast<size_t>(n));
        for_tasks(
            pool, static_cast<int64_t>(count.size()), grain,
            [&](int64_t item) { return count[static_cast<size_t>(item)]; },
            [&](int64_t item, int64_t task) { runs.at(static_cast<size_t>(item)).at(static_cast<size_t>(task))++; });
        for (auto& item : runs)
          for (auto& task : item) EXPECT_EQ(task.load(), 1);
      }
  }
}

}  // namespace
}  // namespace linnet
