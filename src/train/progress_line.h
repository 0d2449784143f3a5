// What a terminal shows of a run: one line, made here and printed by the command.
#pragma once

#include <cstdint>
#include <string>

#include "train/run_log.h"

namespace linnet::train {

// "train  6 %  step 1,234 / 20,000  loss 3.214  5,120 tokens/s  31 % of the GEMM rate  1 h 12 min left". What is unknown is left
// out; the time left follows from `seconds_per_step`, an average over the last steps (0: unknown). Never longer than
// `columns` (0: no limit): what comes last goes first.
std::string progress_line(const StepRecord& record, int64_t n_steps, double seconds_per_step, int columns = 0);

// "42 s", "3 min 5 s", "2 h 13 min", "3 d 4 h"; rounded up to whole units.
std::string duration_text(double seconds);

}  // namespace linnet::train
