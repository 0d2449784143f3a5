// TokenShards: the documents that a training run reads, as token ids in memory-mapped files. Written by `linnet data build`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"

namespace linnet::train {

enum class Split : uint8_t { train, held_out };
constexpr int kSplits = 2;
const char* name_of(Split split);          // "train", "held-out"
Split parse_split(std::string_view name);  // throws InvalidArgument

// The tokens of one document as they lie in the file: ids of 16 or 32 bits, every one in [0, vocab_size).
class DocumentTokens {
 public:
  DocumentTokens() = default;
  explicit DocumentTokens(std::span<const uint16_t> ids) : data_(ids.data()), n_(std::ssize(ids)), wide_(false) {}
  explicit DocumentTokens(std::span<const uint32_t> ids) : data_(ids.data()), n_(std::ssize(ids)), wide_(true) {}

  int64_t size() const noexcept { return n_; }
  bool wide() const noexcept { return wide_; }
  int32_t operator[](int64_t i) const noexcept {  // i in [0, size())
    return wide_ ? static_cast<int32_t>(static_cast<const uint32_t*>(data_)[i])
                 : static_cast<int32_t>(static_cast<const uint16_t*>(data_)[i]);
  }
  // out[i] = (*this)[begin + i]; begin >= 0, begin + out.size() <= size().
  void copy(int64_t begin, std::span<int32_t> out) const noexcept {
    for (size_t i = 0; i < out.size(); ++i) out[i] = (*this)[begin + static_cast<int64_t>(i)];
  }

 private:
  const void* data_ = nullptr;
  int64_t n_ = 0;
  bool wide_ = false;
};

// Documents [begin, end) of a split.
struct DocumentRange {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

// One source of the manifest. Documents lie in order of sources, and inside a source in the order in which they were read.
struct ShardSource {
  std::string name, licence;
  DocumentRange documents[kSplits];
  int64_t tokens[kSplits] = {};
  int64_t bytes[kSplits] = {};  // of the documents' text
};

// What identifies the data of a run; equal for equal content, wherever it lies.
struct ShardIdentity {
  int32_t vocab_size = 0;       // of the tokenizer: ids are below it
  uint64_t tokenizer_hash = 0;  // formats::Tokenizer::hash()
  uint64_t content_hash = 0;    // over the checksums of all shards in order
};

// Immutable; threads may share one. Copies share the mappings.
class TokenShards {
 public:
  // Reads DIR/manifest.json and maps every shard it names. All is checked here, once: magic, version, lengths, checksums, offsets
  // in order, ids below the vocabulary size, counts equal to the manifest's. So every byte is read; later calls cannot fail.
  // Throws IoError, FormatError "FILE: what: expected .., got ..".
  static TokenShards open(const std::filesystem::path& dir);

  // The same from memory, as one source: for tests. Throws InvalidArgument for an id outside [0, vocab_size).
  static TokenShards from_documents(int32_t vocab_size, std::span<const std::vector<int32_t>> train,
                                    std::span<const std::vector<int32_t>> held_out);

  const ShardIdentity& identity() const;
  // Throws FormatError naming the folder and both hashes, unless the ids are this tokenizer's.
  void require_tokenizer(const formats::Tokenizer& tokenizer) const;

  int64_t n_documents(Split split) const;
  int64_t n_tokens(Split split) const;
  int64_t n_bytes(Split split) const;  // of the text behind the tokens; begin and end tokens have none
  DocumentTokens document(Split split, int64_t index) const;  // index in [0, n_documents(split)); never empty
  const std::vector<ShardSource>& sources() const;
  const std::string& end_token() const;            // name of the token after each document; empty: none
  std::filesystem::path tokenizer_folder() const;  // in dir(); empty when there is none
  const std::filesystem::path& dir() const;        // empty for from_documents()

 private:
  struct State;
  explicit TokenShards(std::shared_ptr<const State> state) : state_(std::move(state)) {}

  std::shared_ptr<const State> state_;
};

}  // namespace linnet::train
