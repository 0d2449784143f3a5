#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace linnet::train {
namespace {

// From 1 at x = 0 to `end` at x = 1.
double mix(double end, double x) { return 1 - (1 - end) * x; }

}  // namespace

double learning_rate_factor(const ScheduleConfig& s, int64_t step) {
  const auto share = [](int64_t part, int64_t whole) { return static_cast<double>(part) / static_cast<double>(whole); };
  step = std::clamp<int64_t>(step, 1, s.steps);
  if (step <= s.warmup_steps) return share(step, s.warmup_steps + 1);
  switch (s.kind) {
    case ScheduleKind::constant: return 1;
    case ScheduleKind::cosine: {
      const int64_t last =
          s.steps - s.warmup_steps - 1;  // step warmup_steps + 1 is at the peak, step `steps` at the end
      const double x = last <= 0 ? 0 : share(step - s.warmup_steps - 1, last);
      return mix(s.final_ratio, (1 - std::cos(std::numbers::pi * x)) / 2);
    }
    case ScheduleKind::wsd: {
      const int64_t stable_end = s.steps - s.decay_steps;
      return step <= stable_end ? 1 : mix(s.final_ratio, share(step - stable_end, s.decay_steps));
    }
  }
  return 1;
}

}  // namespace linnet::train
