// linnet synth: writes a random checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace linnet::cli {

struct SynthArgs {
  std::filesystem::path config, out;
  int64_t layers = 0;  // 0: all of the config
  uint64_t seed = 0;
  std::string dtype;  // "bf16", "f16", "f32" or empty: as the config says
  uint64_t max_shard_bytes = 5'000'000'000;
  int threads = 0;
};

int run_synth(const SynthArgs& args);

}  // namespace linnet::cli
