// The table of mergeable tokens: byte strings and their ranks (= token ids), as a tiktoken ranks file holds them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace linnet::formats {

using TokenId = int32_t;

// Ranks are 0..size()-1 without holes, byte strings are distinct, and each of the 256 single bytes is a token.
class RankTable {
 public:
  // Lines `base64(bytes) rank\n`, in any order. Throws FormatError "FILE:LINE: what: expected .., got ..", IoError.
  static RankTable load(const std::filesystem::path& file);
  static RankTable parse(std::string_view text, const std::string& file_name);

  int32_t size() const noexcept { return static_cast<int32_t>(ends_.size()); }
  std::string_view bytes(TokenId id) const noexcept {  // id in [0, size())
    const auto i = static_cast<size_t>(id);
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(arena_).substr(begin, ends_[i] - begin);
  }
  std::optional<TokenId> find(std::string_view bytes) const noexcept {
    const TokenId id = rank_of(bytes);
    return id == kNone ? std::nullopt : std::optional(id);
  }

  static constexpr TokenId kNone = INT32_MAX;              // greater than every rank
  TokenId rank_of(std::string_view bytes) const noexcept;  // kNone when it is no token
  TokenId rank_of_byte(uint8_t byte) const noexcept { return byte_ranks_[byte]; }

 private:
  struct Slot {
    uint32_t tag = 0;
    TokenId id = kNone;
  };
  size_t slot_of(std::string_view bytes, uint64_t hash) const noexcept;
  void index(const std::string& file_name, std::span<const uint32_t> lines);

  std::string arena_;           // the tokens' bytes one after the other, in order of rank
  std::vector<uint32_t> ends_;  // [size] where each ends
  std::vector<Slot> slots_;     // open addressing, a power of two, at most half full
  std::vector<TokenId> byte_ranks_;
};

// The content of a ranks file in which tokens[i] has rank i; and that file, which appears whole or not at all.
std::string ranks_file_text(std::span<const std::string> tokens);
void write_ranks_file(const std::filesystem::path& file, std::span<const std::string> tokens);

// A table for checkpoints with random weights: the 256 bytes, then the words over a..z of 2 letters, 3 letters, ... in order,
// each of which its own prefix and last letter merge to. n_tokens >= 256.
std::vector<std::string> letter_vocabulary(int32_t n_tokens);

}  // namespace linnet::formats
