// The file of a token shard: documents as token ids, under a checksum.
//
//   byte  0  "LINNETTK"                    byte 32  u64 tokens
//   byte  8  u32 version                   byte 40  u64 documents
//   byte 12  u32 bytes of an id: 2 or 4    byte 48  u64 formats::Tokenizer::hash()
//   byte 16  u64 bytes of the whole file   byte 56  u32 vocabulary size, above every id
//   byte 24  u64 checksum                  byte 60  u32 zero
//   byte 64  the ids, then zeros up to a multiple of 8, then for each document the u64 number of tokens up to its end
// All little-endian. Checksum: xxHash64 of bytes [0, 24) and [32, 64), its seed the xxHash64, seed 0, of bytes [64, end).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

namespace linnet::train {

constexpr uint32_t kTokenShardVersion = 1;

// Whose ids a shard holds.
struct TokenIds {
  uint64_t tokenizer_hash = 0;
  int32_t vocab_size = 0;  // in [1, 2^24]
  int bytes() const { return vocab_size <= 65536 ? 2 : 4; }
};

// A shard that passed every check.
struct TokenShardView {
  TokenIds ids;
  uint64_t checksum = 0;
  int id_bytes = 2;
  const std::byte* tokens = nullptr;  // n_tokens of id_bytes each
  int64_t n_tokens = 0;
  std::span<const uint64_t> ends;  // ascending from at least 1; the last is n_tokens
};

// The bytes, 8-byte aligned, stay there as long as the view. Throws FormatError "PLACE: what: expected .., got ..".
TokenShardView parse_token_shard(std::span<const std::byte> file, std::string_view place);

// The checksum that belongs at byte 24 of these bytes (at least 64).
uint64_t token_shard_checksum(std::span<const std::byte> file);

// Writes a shard piece by piece; the file appears at commit(). Throws IoError.
class TokenShardWriter {
 public:
  TokenShardWriter(const std::filesystem::path& path, const TokenIds& ids);
  ~TokenShardWriter();
  TokenShardWriter(const TokenShardWriter&) = delete;
  TokenShardWriter& operator=(const TokenShardWriter&) = delete;

  void add(std::span<const int32_t> document);  // not empty, ids in [0, vocab_size)
  int64_t n_tokens() const;
  uint64_t commit();  // returns the checksum

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace linnet::train
