// A tokenizer from text: byte-level byte-pair encoding in the files that formats::Tokenizer::load reads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/function_ref.h"
#include "train/data_config.h"

namespace linnet::train {

// Special tokens that a model has embedding rows for. They follow the ranks; two more names follow them, which no model has.
constexpr int32_t kSpecialRows = 256;

struct TokenizerTrainOptions {
  int64_t vocab_size = 0;                 // rows of the model's embedding: tokens of the ranks file + kSpecialRows
  int64_t min_count = 2;                  // see BpeTrainOptions
  size_t memory_bytes = size_t{4} << 30;  // limit of the piece counts; see PieceCounts
};

struct TokenizerTrainResult {
  std::vector<std::string> tokens;  // of the ranks file; fewer than asked for when the text holds no more
  int64_t n_documents = 0, n_bytes = 0, n_pieces = 0;
  int64_t n_prunings = 0, forgotten_below = 0;  // see PieceCounts
};

enum class TokenizerTrainPhase : uint8_t { count, merge };  // progress in bytes of files, in tokens

// Deterministic: same config, options and bytes, same tokens. Throws InvalidArgument, IoError, FormatError.
TokenizerTrainResult train_tokenizer(const DataConfig& config, const TokenizerTrainOptions& options,
                                     FunctionRef<void(TokenizerTrainPhase, int64_t done, int64_t total)> progress);

// Writes tiktoken.model and tokenizer_config.json, with Kimi's special tokens and [EOS] as the end. The folder may exist, these
// files may not. Throws InvalidArgument, IoError.
void write_tokenizer(const std::filesystem::path& dir, const std::vector<std::string>& tokens);
void refuse_existing_tokenizer(const std::filesystem::path& dir);  // the same check, before the work

}  // namespace linnet::train
