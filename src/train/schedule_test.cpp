// The learning rate over a run.
#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace linnet::train {
namespace {

TEST(schedule, warms_up_towards_the_peak) {
  const ScheduleConfig s{.kind = ScheduleKind::constant, .steps = 100, .warmup_steps = 4};
  EXPECT_DOUBLE_EQ(learning_rate_factor(s, 1), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate_factor(s, 4), 0.8);
  EXPECT_DOUBLE_EQ(learning_rate_factor(s, 5), 1);
  EXPECT_DOUBLE_EQ(learning_rate_factor(s, 100), 1);
  const ScheduleConfig none{.kind = ScheduleKind::constant, .steps = 3};
  EXPECT_DOUBLE_EQ(learning_rate_factor(none, 1), 1);
}

TEST(schedule, cosine_goes_from_one_to_the_final_ratio) {
  const ScheduleConfig s{.kind = ScheduleKind::cosine, .steps = 103, .warmup_steps = 2, .final_ratio = 0.1};
  EXPECT_DOUBLE_EQ(learning_rate_factor(s, 3), 1);
  EXPECT_NEAR(learning_rate_factor(s, 53), 0.55, 1e-12);                          // half-way
  EXPECT_NEAR(learning_rate_factor(s, 28), 0.55 + 0.45 * std::sqrt(0.5), 1e-12);  // a quarter: cos(pi / 4)
  EXPECT_NEAR(learning_rate_factor(s, 103), 0.1, 1e-12);
  for (int64_t step = 3; step < 103; ++step)
    EXPECT_GT(learning_rate_factor(s, step), learning_rate_factor(s, step + 1));
}

TEST(schedule, wsd_is_stable_and_then_decays) {
  const ScheduleConfig s{
      .kind = ScheduleKind::wsd, .steps = 50, .warmup_steps = 5, .decay_steps = 10, .final_ratio = 0};
  EXPECT_DOUBLE_EQ(learning_rate_factor(s, 5), 5.0 / 6);
  EXPECT_DOUBLE_EQ(learning_rate_factor(s, 6), 1);
  EXPECT_DOUBLE_EQ(learning_rate_factor(s, 40), 1);
  EXPECT_DOUBLE_EQ(learning_rate_factor(s, 41), 0.9);
  EXPECT_NEAR(learning_rate_factor(s, 49), 0.1, 1e-15);
  EXPECT_NEAR(learning_rate_factor(s, 50), 0, 1e-15);
}

TEST(schedule, holds_at_its_edges) {
  for (ScheduleKind kind : {ScheduleKind::constant, ScheduleKind::cosine, ScheduleKind::wsd}) {
    const ScheduleConfig one{.kind = kind, .steps = 1};
    EXPECT_DOUBLE_EQ(learning_rate_factor(one, 1), 1);
    const ScheduleConfig s{.kind = kind, .steps = 8, .warmup_steps = 3, .decay_steps = 5, .final_ratio = 0.25};
    EXPECT_EQ(learning_rate_factor(s, 0), learning_rate_factor(s, 1));  // outside the run: its ends
    EXPECT_EQ(learning_rate_factor(s, 99), learning_rate_factor(s, 8));
  }
  const ScheduleConfig all_decay{.kind = ScheduleKind::wsd, .steps = 4, .decay_steps = 4};
  EXPECT_DOUBLE_EQ(learning_rate_factor(all_decay, 1), 0.75);
}

}  // namespace
}  // namespace linnet::train
