// Tasks with the scheduler's prefix cache: they run while it works, and what they throw comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "runtime/scheduler_test_support.h"

namespace linnet::runtime {
namespace {

TEST(scheduler_tasks, run_between_passes_and_hand_back_what_they_throw) {
  const TinyModel model;
  const auto engine = model.engine();
  Scheduler scheduler(*engine, *model.tokenizer, {.state_bytes = 64 << 20});
  const auto busy = scheduler.submit(a_request(100, 2000));
  int64_t entries = -1;
  std::thread::id where;
  scheduler.with_cache([&](PrefixCache& cache) {
    entries = cache.stats().entries;
    where = std::this_thread::get_id();
  });
  EXPECT_GE(entries, 0);
  EXPECT_NE(where, std::this_thread::get_id());  // no other thread touches the cache
  EXPECT_EQ(formats::error_of<IoError>([&] { scheduler.with_cache([](PrefixCache&) { throw IoError("disk"); }); }),
            "disk");
  const auto idle_engine = model.engine();
  Scheduler forgetful(*idle_engine, *model.tokenizer, {.state_bytes = 64 << 20, .prefix_cache = false});
  EXPECT_THAT(formats::error_of<InvalidArgument>([&] { forgetful.with_cache([](PrefixCache&) {}); }),
              testing::HasSubstr("no prefix cache"));
}

}  // namespace
}  // namespace linnet::runtime
