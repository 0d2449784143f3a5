// One call of `linnet train`: every model of the configuration from its start, or its last checkpoint, to the end of the schedule,
// with log, report, evaluations and checkpoints on the way.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "core/thread_pool.h"
#include "core/trace.h"
#include "train/run_log.h"
#include "train/train_config.h"
#include "train/trainer.h"

namespace linnet::train {

// What somebody who watches may want to know of a step.
struct StepLine {
  std::string_view run;  // empty when there is one
  StepRecord record;
  StepResult result;
  int64_t steps = 0;  // of the schedule
  double seconds_per_step = 0;
};

constexpr const char* kWholeStep = "step";

struct RunEvents {
  std::function<void(const std::string& line)> note;  // what is worth a line of text
  std::function<void(const StepLine&)> step;
  std::function<bool()> stop;  // asked after each step: save and end
  Trace* trace = nullptr;      // gets the parts of all steps, and kWholeStep; not evaluations, checkpoints and reports
};

enum class RunEnd : uint8_t { finished, stopped };

// Without `resume` the folder of each run must be new or hold no checkpoint. With it, runs go on from their last checkpoint, bit for
// bit as if they had not stopped. Throws what reading throws; OutOfMemory with the plan; Diverged.
RunEnd run_training(const TrainConfig& config, bool resume, const RunEvents& events, ThreadPool& pool);

}  // namespace linnet::train
