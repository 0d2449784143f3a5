// linnet data build: token shards from text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "cli/data_inputs.h"

namespace linnet::cli {

struct DataBuildArgs {
  DataInputs inputs;
  std::filesystem::path tokenizer, out;
  std::optional<double> held_out;                     // absent: the configuration's
  std::optional<std::string> begin_token, end_token;  // "none": none
  int64_t max_shard_tokens = int64_t{1} << 28;
  int threads = 0;
};

int run_data_build(const DataBuildArgs& args);

}  // namespace linnet::cli
