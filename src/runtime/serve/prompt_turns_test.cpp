#include "runtime/serve/prompt_turns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace linnet::runtime {
namespace {

using testing::ElementsAre;

// A prompt that stops at its end only.
Reading prompt(int64_t done, int64_t total, int64_t arrival = 0) {
  return {.done = done, .stop = total, .total = total, .arrival = arrival};
}

TEST(prompt_turns, whole_prompts_share_a_pass_the_shortest_first) {
  EXPECT_THAT(prompt_turns(std::vector{prompt(0, 300), prompt(0, 10), prompt(0, 100)}, 512), ElementsAre(300, 10, 100));
  EXPECT_THAT(prompt_turns(std::vector{prompt(0, 300), prompt(0, 10), prompt(0, 100)}, 256), ElementsAre(128, 10, 100));
  EXPECT_THAT(prompt_turns(std::vector{prompt(0, 300), prompt(0, 10), prompt(0, 100)}, 64), ElementsAre(0, 10, 0));
  EXPECT_THAT(prompt_turns(std::vector{prompt(64, 5000), prompt(0, 64)}, 64), ElementsAre(0, 64));
  EXPECT_TRUE(prompt_turns({}, 64).empty());
}

TEST(prompt_turns, cuts_lie_at_multiples_of_the_chunk_and_at_stops) {
  EXPECT_THAT(prompt_turns(std::vector{prompt(128, 1000)}, 200), ElementsAre(192));
  Reading stops = prompt(64, 1000);
  stops.stop = 128;
  EXPECT_THAT(prompt_turns(std::vector{stops, prompt(0, 2000)}, 512), ElementsAre(64, 448));
}

// A long prompt beside short ones that never end: it waits for its own length of them, then it is its turn.
TEST(prompt_turns, a_long_prompt_waits_no_longer_than_its_own_length) {
  constexpr int64_t kRoom = 128, kLong = 6400;
  Reading reading = prompt(0, kLong);
  int64_t others = 0, waited = 0;
  while (reading.done < reading.total) {
    const int64_t arrival = reading.done + others;
    const std::vector<int64_t> counts = prompt_turns(std::vector{reading, prompt(0, 100, arrival)}, kRoom);
    ASSERT_GT(counts[0] + counts[1], 0);
    reading.done += counts[0], others += counts[1];
    if (reading.done == 0) waited = others;
    ASSERT_LE(others, 10 * kLong);
  }
  EXPECT_LE(waited, kLong);
  EXPECT_LE(others, 2 * kLong);
}

}  // namespace
}  // namespace linnet::runtime
