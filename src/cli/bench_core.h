// The KDA core by itself over a long sequence, as the model calls it: pass after pass, each from the state of the one before.
#pragma once

#include <vector>

#include "core/exec.h"
#include "model/config.h"

namespace linnet::cli {

struct CorePoint {
  int64_t tokens = 0;
  double seconds = 0;  // of one layer, from the beginning of the sequence
};

// Seconds when each of `tokens` (ascending) has been read, in passes of at most tokens_per_pass. Nothing for a model without KDA.
std::vector<CorePoint> measure_kda_core(const model::ModelConfig& config, int64_t tokens_per_pass,
                                        const std::vector<int64_t>& tokens, ThreadPool& pool);

}  // namespace linnet::cli
