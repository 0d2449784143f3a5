#include <gtest/gtest.h>

#include <atomic>
#include <thread>
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

// Each piece waits until all are held, so every thread holds one: all workers come to a region that stays open for them, and
// no two have the same number.
TEST(thread_pool, all_threads_take_part_under_their_own_numbers) {
  constexpr int kThreads = 4;
  ThreadPool pool(kThreads);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> held{0};
    std::vector<std::atomic<int>> by_thread(kThreads);
    pool.parallel_for(kThreads, 1, [&](int64_t, int64_t, int thread) {
      by_thread[static_cast<size_t>(thread)]++;
      held++;
      while (held < kThreads) std::this_thread::yield();
    });
    for (auto& pieces : by_thread) EXPECT_EQ(pieces.load(), 1);
  }
}

// Workers are held back where a thread may stand that the system does not schedule: after it saw a region, before it takes part.
class LateWorkers {
 public:
  auto hook() {
    return [this](int) {
      ++waiting_;
      waiting_.notify_all();
      late_.wait(true);
      --waiting_;
    };
  }
  void await(int n) {
    for (int waiting = waiting_; waiting < n; waiting = waiting_) waiting_.wait(waiting);
  }
  void let_go() {
    late_ = false;
    late_.notify_all();
  }

 private:
  std::atomic<bool> late_{true};
  std::atomic<int> waiting_{0};
};

TEST(thread_pool, a_region_does_not_wait_for_late_workers) {
  LateWorkers late;
  ThreadPool pool(3, true, late.hook());
  int64_t total = 0;  // not atomic: the caller is alone
  const auto count = [&](int64_t begin, int64_t end, int thread) {
    EXPECT_EQ(thread, 0);
    total += end - begin;
  };
  for (int round = 0; round < 100; ++round) pool.parallel_for(50, 1, count);  // returns although nobody else can come
  EXPECT_EQ(total, 5000);
  late.await(2);
  pool.parallel_for(50, 1, count);
  EXPECT_EQ(total, 5050);

  // Let go after many regions have passed, they find none, and take part in the next.
  late.let_go();
  std::atomic<int> held{0};
  pool.parallel_for(3, 1, [&](int64_t, int64_t, int) {
    held++;
    while (held < 3) std::this_thread::yield();
  });
  EXPECT_EQ(held, 3);
}

// Regions of ever different bodies, sizes and grains, back to back, while workers come early, late and never: a worker that takes
// the body of one region for the range of another miscounts, and reads what the caller writes (a race that ThreadSanitizer reports).
TEST(thread_pool, workers_never_mix_regions_up) {
  for (int threads : {2, 3, 8}) {
    std::atomic<uint32_t> calls{0};
    ThreadPool pool(threads, true, [&](int) {
      if (calls++ % 3 == 0) std::this_thread::yield();
    });
    for (int64_t round = 0; round < 3000; ++round) {
      const int64_t n = 2 + round % 13, grain = 1 + round % 3;
      int64_t hits[16] = {};
      std::atomic<int64_t> sum{0};
      pool.parallel_for(n, grain, [&, round](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) hits[i] += round + 1;
        sum += (end - begin) * (round + 1);
      });
      ASSERT_EQ(sum, n * (round + 1));
      for (int64_t i = 0; i < 16; ++i) ASSERT_EQ(hits[i], i < n ? round + 1 : 0);
    }
  }
}

TEST(thread_pool, ends_while_workers_are_late) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool(4);
    std::atomic<int64_t> sum{0};
    if (round % 2) pool.parallel_for(8, 1, [&](int64_t b, int64_t e, int) { sum += e - b; });
    EXPECT_EQ(sum, round % 2 ? 8 : 0);
  }
}

TEST(thread_pool, refuses_impossible_counts) {
  EXPECT_THROW(ThreadPool(-1), InvalidArgument);
  EXPECT_THROW(ThreadPool(ThreadPool::max_threads + 1), InvalidArgument);
}

}  // namespace
}  // namespace linnet
