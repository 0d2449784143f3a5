// generation_config.json: how a checkpoint's authors suggest to sample from it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/tokenizer_ranks.h"

namespace linnet::formats {

// Everything is optional. Values are checked for their type and range, not for whether they fit a model.
struct GenerationConfig {
  std::vector<TokenId> eos_ids;  // eos_token_id, one or several
  std::optional<TokenId> bos_id, pad_id;
  std::optional<bool> do_sample;  // false: greedy, whatever the numbers below say
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k, max_new_tokens;
  std::vector<std::string> ignored_keys;  // in the file but not read here: they do not change the logits

  // The file in dir; all absent where there is none. Throws FormatError naming the key, IoError.
  static GenerationConfig load(const std::filesystem::path& dir);
};

}  // namespace linnet::formats
