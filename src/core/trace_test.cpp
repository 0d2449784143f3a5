// Trace: sums by name, nesting, and nothing collected outside of a Use.
#include <gtest/gtest.h>

#include <thread>

#include "core/trace.h"

namespace linnet {
namespace {

void work() {
  const Trace::Scope outer("outer");
  for (int i = 0; i < 3; ++i) {
    const Trace::Scope inner("inner");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST(trace, sums_calls_and_seconds_by_name) {
  Trace trace;
  work();  // not in use
  EXPECT_TRUE(trace.entries().empty());
  {
    const Trace::Use use(trace);
    work();
    work();
    std::thread(work).join();  // another thread is not traced
  }
  work();
  ASSERT_EQ(trace.entries().size(), 2u);
  EXPECT_STREQ(trace.entries()[0].name, "inner");
  EXPECT_EQ(trace.entries()[0].calls, 6);
  EXPECT_EQ(trace.entries()[1].calls, 2);
  EXPECT_GE(trace.seconds("inner"), 6e-3);
  EXPECT_GE(trace.seconds("outer"), trace.seconds("inner"));
  EXPECT_EQ(trace.seconds("missing"), 0);
}

TEST(trace, use_nests) {
  Trace first, second;
  const Trace::Use use_first(first);
  {
    const Trace::Use use_second(second);
    const Trace::Scope scope("a");
  }
  const Trace::Scope scope("b");
  EXPECT_EQ(second.entries().size(), 1u);
  EXPECT_TRUE(first.entries().empty());
}

}  // namespace
}  // namespace linnet
