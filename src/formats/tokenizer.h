// Tokenizer: Kimi's tiktoken tokenizer. Text to token ids and back.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer_ranks.h"
#include "formats/tokenizer_specials.h"
#include "formats/tokenizer_split.h"

namespace linnet::formats {

// What the name of a special token inside a text is.
enum class SpecialPolicy : uint8_t {
  as_text,  // text like any other: what a user writes never becomes a control token
  parse,    // the control token, as the published tokenizer class does it by default
};

enum class SpecialText : uint8_t { shown, hidden };  // what decoding makes of special tokens: their names, or nothing

// Bytes [begin, end) of a text.
struct ByteRange {
  size_t begin, end;
};

// Immutable once loaded; threads may share one.
class Tokenizer {
 public:
  // Reads tiktoken.model in dir, and tokenizer_config.json and special_tokens_map.json there if they exist.
  // Throws IoError, FormatError.
  static Tokenizer load(const std::filesystem::path& dir);
  static Tokenizer load_ranks_file(const std::filesystem::path& file);  // with the special tokens of Kimi
  Tokenizer(RankTable ranks, SpecialTokens specials);                   // specials.first() == ranks.size()

  // Ids are 0..vocab_size()-1: the ranks, then SpecialTokens::kCount special tokens. A model may have fewer embedding rows.
  int32_t vocab_size() const noexcept { return specials_.end(); }
  const RankTable& ranks() const noexcept { return ranks_; }
  const SpecialTokens& specials() const noexcept { return specials_; }
  bool is_special(TokenId id) const noexcept { return specials_.contains(id); }
  std::optional<TokenId> id_of(std::string_view bytes) const noexcept { return ranks_.find(bytes); }
  std::optional<TokenId> special_id(std::string_view name) const noexcept { return specials_.find(name); }
  std::string_view bytes_of(TokenId id) const;  // of a special token: its name; throws InvalidArgument
  std::optional<TokenId> bos_id() const noexcept { return specials_.bos; }
  std::optional<TokenId> eos_id() const noexcept { return specials_.eos; }
  // Tokens at which a reply ends: eos, and [EOS], [EOT] and <|im_end|> where they exist.
  std::vector<TokenId> stop_ids() const;
  // xxHash64 of each id's bytes (of special tokens their names) with the hash of those before as the seed, 0 for the first.
  uint64_t hash() const;

  // decode(encode(text)) == text for any bytes: a byte that is part of no well-formed UTF-8 becomes the token of that byte,
  // and the text before and after it is encoded by itself. Names of special tokens that a file gives to no id stay text.
  std::vector<TokenId> encode(std::string_view text, SpecialPolicy policy = SpecialPolicy::as_text) const;
  // The same where names of special tokens count only inside the given ranges (ascending, disjoint).
  std::vector<TokenId> encode(std::string_view text, std::span<const ByteRange> control) const;

  // The bytes of the tokens, which need not be UTF-8. Throws InvalidArgument naming the index of an id out of range.
  std::string decode(std::span<const TokenId> ids, SpecialText specials = SpecialText::shown) const;

 private:
  void append_text(std::string_view text, std::vector<TokenId>& out) const;

  RankTable ranks_;
  SpecialTokens specials_;
  PreTokenizer pre_tokenizer_;
};

// Text from tokens as they come: complete characters only.
class StreamDecoder {
 public:
  // The tokenizer must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer, SpecialText specials = SpecialText::hidden)
      : tokenizer_(&tokenizer), specials_(specials) {}

  // The text that these tokens complete, always well-formed UTF-8: a sequence that may still become a character is held
  // back; bytes that cannot are replaced by U+FFFD, one for each maximal ill-formed subpart. Throws InvalidArgument.
  std::string push(std::span<const TokenId> ids);
  std::string push(TokenId id) { return push(std::span(&id, 1)); }

  // The end of the text: U+FFFD for what is held back, if anything; the decoder is as new.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  SpecialText specials_;
  std::string held_;  // at most 3 bytes between calls
};

}  // namespace linnet::formats
