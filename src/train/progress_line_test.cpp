// The line of a run on a terminal.
#include "train/progress_line.h"

#include <gtest/gtest.h>

#include <cmath>

namespace linnet::train {
namespace {

const StepRecord kRecord{.step = 1234, .tokens = 1, .loss = 3.21449, .tokens_per_s = 5119.6, .gemm_share = 0.314};

TEST(progress_line, says_how_far_and_how_fast) {
  EXPECT_EQ(progress_line(kRecord, 20000, 0.23),
            "train    6 %  step 1,234 / 20,000  loss 3.214  5,120 tokens/s  31 % of the GEMM rate  1 h 12 min left");
}

TEST(progress_line, leaves_out_what_is_unknown) {
  EXPECT_EQ(progress_line({.step = 1, .loss = 2}, 0, 0), "train  step 1  loss 2.000");
  EXPECT_EQ(progress_line({.step = 5, .loss = HUGE_VAL}, 5, 1), "train  100 %  step 5 / 5  loss nan");
  EXPECT_EQ(progress_line({.step = 999, .loss = 1}, 1000, 2), "train   99 %  step 999 / 1,000  loss 1.000  2 s left");
}

TEST(progress_line, fits_the_terminal) {
  EXPECT_EQ(progress_line(kRecord, 20000, 0.23, 60), "train    6 %  step 1,234 / 20,000  loss 3.214");
  EXPECT_EQ(progress_line(kRecord, 20000, 0.23, 61), "train    6 %  step 1,234 / 20,000  loss 3.214  5,120 tokens/s");
  EXPECT_EQ(progress_line(kRecord, 20000, 0.23, 3), "train");
}

TEST(progress_line, durations_round_up) {
  EXPECT_EQ(duration_text(0), "0 s");
  EXPECT_EQ(duration_text(58.2), "59 s");
  EXPECT_EQ(duration_text(59.2), "1 min 0 s");
  EXPECT_EQ(duration_text(185), "3 min 5 s");
  EXPECT_EQ(duration_text(3599.5), "1 h 0 min");
  EXPECT_EQ(duration_text(86399), "1 d 0 h");
  EXPECT_EQ(duration_text(3 * 86400 + 3.5 * 3600), "3 d 4 h");
  EXPECT_EQ(duration_text(NAN), "unknown");
  EXPECT_EQ(duration_text(HUGE_VAL), "unknown");
}

}  // namespace
}  // namespace linnet::train
