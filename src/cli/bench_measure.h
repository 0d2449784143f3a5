// The measurements of linnet bench.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/bench_core.h"
#include "cli/process.h"
#include "core/trace.h"
#include "model/cost.h"

namespace linnet::cli {

// Seconds of the repetitions.
struct Spread {
  double median = 0, low = 0, high = 0;
};

// What the machine can do: the best of all measurements in the run. Ratios use the measurement made just before each repetition,
// because a machine that also does other things is not equally fast twice.
struct Floors {
  double read_bytes_per_second = 0, gemm_flops_per_second = 0;
};

struct PrefillResult {
  int64_t depth = 0, tokens = 0;
  Spread seconds;
  double ratio = 0;  // median over the repetitions of cost / rate of products / seconds
  model::PrefillCost cost;
};

struct DecodeResult {
  int64_t depth = 0, tokens = 0;
  Spread seconds_per_token;
  double ratio = 0;  // median over the repetitions of cost / read bandwidth / seconds
  model::DecodeCost cost;
  double weights_ratio() const {  // the same, counting only the weights as needed
    return ratio * static_cast<double>(cost.weight_bytes) / static_cast<double>(cost.total());
  }
};

// The first `tokens` of one sequence, read once.
struct FillResult {
  int64_t tokens = 0;
  double seconds = 0;
  std::vector<Trace::Entry> parts;
  double kda_core_seconds = 0;
  double kda_core_share() const { return seconds > 0 ? kda_core_seconds / seconds : 0; }
};

struct BenchResult {
  Floors floors;
  std::vector<PrefillResult> prefill;
  std::vector<DecodeResult> decode;
  std::vector<FillResult> fills;
  std::vector<CorePoint> core_alone;          // one layer of the KDA core, without the model around it
  std::optional<double> first_token_seconds;  // from process start; none without a tokenizer
  ResidentMemory memory;
  int64_t weight_bytes = 0, state_bytes = 0;  // of the two slots that were in use
};

// Told what is being measured.
using BenchProgress = std::function<void(const std::string& what, int64_t done, int64_t total)>;

// Throws InvalidArgument for depths that do not fit into the context.
BenchResult measure(runtime::Engine& engine, const BenchArgs& args, const BenchProgress& progress);

}  // namespace linnet::cli
