// The documents that linnet perplexity scores: text files, given ids, or a split of token shards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "formats/tokenizer.h"
#include "train/token_shards.h"

namespace linnet::cli {

struct ScoredSource {
  std::filesystem::path model;               // whose tokenizer it is
  std::vector<std::filesystem::path> files;  // text files, "-" is stdin; or:
  std::filesystem::path ids;                 // safetensors with input_ids; or:
  std::filesystem::path data;                // folder of token shards
  std::string split = "held-out";            // of data
  int64_t n_documents = 0;                   // of data: so many, evenly over the split; 0: all
  bool bos = false;                          // files begin with the BOS token
};

class ScoredDocuments {
 public:
  // Throws InvalidArgument unless exactly one of files, ids and data is given; IoError, FormatError.
  ScoredDocuments(const ScoredSource& source, int64_t vocab_size);

  int64_t size() const { return shards_ ? n_chosen_ : static_cast<int64_t>(documents_.size()); }
  int64_t n_tokens() const;  // of all documents, roughly: for progress
  std::vector<int32_t> tokens(int64_t i) const;
  size_t group(int64_t i) const;                                      // in groups()
  const std::vector<std::string>& groups() const { return groups_; }  // sources of the shards; else one, without a name

  // Bytes of text that a token stands for; 0 where that is not known, and for special tokens of shards: they are no text.
  int64_t bytes_of(int32_t id) const;

 private:
  void read_files(const ScoredSource& source);
  void open_shards(const ScoredSource& source, int64_t vocab_size);
  int64_t index(int64_t i) const;  // in the split

  std::vector<std::vector<int32_t>> documents_;
  std::optional<formats::Tokenizer> tokenizer_;
  std::optional<train::TokenShards> shards_;
  train::Split split_ = train::Split::held_out;
  int64_t n_chosen_ = 0;
  std::vector<std::string> groups_ = {""};
};

}  // namespace linnet::cli
