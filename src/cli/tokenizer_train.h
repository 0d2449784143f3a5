// linnet tokenizer train: a tokenizer from text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "cli/data_inputs.h"

namespace linnet::cli {

struct TokenizerTrainArgs {
  DataInputs inputs;
  std::filesystem::path out;
  int64_t vocab_size = 0;  // with the 256 special tokens
  int64_t min_count = 2;
  std::string pattern = "kimi";
  int64_t memory_mib = 4096;
};

int run_tokenizer_train(const TokenizerTrainArgs& args);

}  // namespace linnet::cli
