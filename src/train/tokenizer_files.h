// The files of a tokenizer, which go with every checkpoint and every folder of shards.
#pragma once

#include <filesystem>

namespace linnet::train {

constexpr const char* kTokenizerFolder = "tokenizer";  // in a folder of shards

// Copies tiktoken.model and those of its companions that there are. `to` must exist. Throws IoError.
void copy_tokenizer_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace linnet::train
