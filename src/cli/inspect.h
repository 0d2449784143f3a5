// linnet inspect: what a checkpoint, or a bare config.json, is and what it takes to run.
#pragma once

#include <cstdint>
#include <filesystem>

namespace linnet::cli {

struct InspectArgs {
  std::filesystem::path model;  // a checkpoint folder, or a folder or file with only the configuration
  int64_t context = 0;          // of the memory table; 0: the model's
  int64_t tokens_per_pass = 0;  // 0: as the engine chooses
  bool tensors = false;         // list all
  bool check = false;           // read all weights and look for NaN and infinity
  bool json = false;
};

int run_inspect(const InspectArgs& args);

}  // namespace linnet::cli
