// The learning rate over a run, as a factor of its peak.
#pragma once

#include <cstdint>

#include "train/train_config.h"

namespace linnet::train {

// Factor in [0, 1] for the update number `step`, counted from 1 to steps; a pure function.
//   warm-up   step / (warmup_steps + 1) for step <= warmup_steps: it ends one step before 1
//   constant  1
//   cosine    from 1 to final_ratio along half a cosine, reached at the last step
//   wsd       1, then linearly to final_ratio over the last decay_steps, reached at the last step
double learning_rate_factor(const ScheduleConfig& schedule, int64_t step);

}  // namespace linnet::train
