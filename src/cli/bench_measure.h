// The measurements of linnet bench.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench.h"
#include "cli/process.h"
#include "core/trace.h"
#include "model/cost.h"

namespace linnet::cli {

// Seconds of the repetitions.
struct Spread {
  double median = 0, low = 0, high = 0;
};

// What the machine can do; each figure is the better of a measurement before and one after the model ran.
struct Floors {
  double read_bytes_per_second = 0, gemm_flops_per_second = 0;
};

struct PrefillResult {
  int64_t depth = 0, tokens = 0;
  Spread seconds;
  model::PrefillCost cost;
  double ratio(const Floors& f) const { return cost.total() / f.gemm_flops_per_second / seconds.median; }
};

struct DecodeResult {
  int64_t depth = 0, tokens = 0;
  Spread seconds_per_token;
  model::DecodeCost cost;
  double ratio(const Floors& f) const {
    return static_cast<double>(cost.total()) / f.read_bytes_per_second / seconds_per_token.median;
  }
  double weights_ratio(const Floors& f) const {
    return static_cast<double>(cost.weight_bytes) / f.read_bytes_per_second / seconds_per_token.median;
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
  std::optional<double> first_token_seconds;  // from process start; none without a tokenizer
  ResidentMemory memory;
  int64_t weight_bytes = 0, state_bytes = 0;  // of the two slots that were in use
};

// Told what is being measured.
using BenchProgress = std::function<void(const std::string& what, int64_t done, int64_t total)>;

// Throws InvalidArgument for depths that do not fit into the context.
BenchResult measure(runtime::Engine& engine, const BenchArgs& args, const BenchProgress& progress);

}  // namespace linnet::cli
