#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <vector>

#include "core/errors.h"
#include "core/thread_pool.h"

namespace linnet {
namespace {

TEST(thread_pool, every_index_once) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t n : {0, 1, 7, 64, 1000})
      for (int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> hits(static_cast<size_t>(n));
        pool.parallel_for(n, grain, [&](int64_t begin, int64_t end, int thread) {
          EXPECT_LT(thread, threads);
          for (int64_t i = begin; i < end; ++i) hits[static_cast<size_t>(i)]++;
        });
        for (auto& h : hits) EXPECT_EQ(h.load(), 1);
      }
  }
}

TEST(thread_pool, nested_calls_run_on_the_calling_thread) {
  ThreadPool pool(2);
  std::atomic<int64_t> sum{0};
  pool.parallel_for(4, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) pool.parallel_for(10, 1, [&](int64_t b, int64_t e, int) { sum += e - b; });
  });
  EXPECT_EQ(sum, 40);
}

TEST(thread_pool, many_short_regions) {
  ThreadPool pool(3);
  int64_t total = 0;
  for (int round = 0; round < 2000; ++round) {
    std::atomic<int64_t> sum{0};
    pool.parallel_for(9, 1, [&](int64_t b, int64_t e, int) { sum += e - b; });
    total += sum;
  }
  EXPECT_EQ(total, 18000);
}

TEST(thread_pool, refuses_negative_counts) { EXPECT_THROW(ThreadPool(-1), InvalidArgument); }

}  // namespace
}  // namespace linnet
