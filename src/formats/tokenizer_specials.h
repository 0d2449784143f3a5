// Special (control) tokens: the ids that follow the ranks, and their names.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer_ranks.h"

namespace linnet::formats {

// One id with its own name.
struct SpecialToken {
  TokenId id;
  std::string name;
  bool visible = false;  // shown even where special tokens are hidden: "special": false, as <think>
};

class SpecialTokens {
 public:
  // Kimi's tokenizer class reserves 256 + 2 ids after the ranks; the last two lie beyond the model's embedding rows.
  static constexpr int32_t kCount = 258;

  // The names of the published Kimi tokenizer, for a table whose first special id is `first`.
  static SpecialTokens kimi(TokenId first);

  // From tokenizer_config.json (added_tokens_decoder, bos_token, eos_token, pad_token, unk_token) and special_tokens_map.json
  // in dir where they exist; what they leave open is as in kimi(), and when added_tokens_decoder exists, each id that it does
  // not list is "<|reserved_token_ID|>". Throws FormatError naming file and key.
  static SpecialTokens load(const std::filesystem::path& dir, TokenId first);

  TokenId first() const noexcept { return first_; }
  TokenId end() const noexcept { return first_ + kCount; }
  bool contains(TokenId id) const noexcept { return id >= first_ && id < end(); }
  const std::string& name(TokenId id) const { return names_[index(id)]; }  // contains(id)
  bool visible(TokenId id) const { return visible_[index(id)]; }
  std::optional<TokenId> find(std::string_view name) const noexcept;

  struct Match {
    size_t begin, end;
    TokenId id;
  };
  // The first place at or after `from` where a name stands in text; the longest name there.
  std::optional<Match> next_match(std::string_view text, size_t from) const noexcept;

  std::optional<TokenId> bos, eos, pad, unk;

 private:
  // Throws FormatError naming the origin when two ids have one name.
  SpecialTokens(TokenId first, const std::vector<SpecialToken>& named, const std::string& origin);
  size_t index(TokenId id) const noexcept { return static_cast<size_t>(id - first_); }
  std::optional<Match> match_at(std::string_view text, size_t at) const noexcept;

  TokenId first_;
  std::vector<std::string> names_;  // [kCount]
  std::vector<bool> visible_;       // [kCount]
  std::vector<TokenId> sorted_;     // ids in order of name
  std::string first_bytes_;         // the distinct first bytes of the names
};

}  // namespace linnet::formats
