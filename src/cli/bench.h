// linnet bench: prompt and decode speed at depths, against what the machine can do.
#pragma once

#include <cstdint>
#include <vector>

#include "cli/engine_args.h"

namespace linnet::cli {

struct BenchArgs {
  EngineArgs engine;
  std::vector<int64_t>
      depths;             // tokens in the state before a measurement; empty: 0, 4096, 16384 as far as the context goes
  int64_t prompt = 2048;  // tokens of a measured prompt
  int64_t decode = 32;    // tokens of a measured decode
  int repetitions = 3;
  bool by_cost = false;  // kernels by cost, not those that generation is pinned to
  bool json = false;
};

int run_bench(const BenchArgs& args);

}  // namespace linnet::cli
