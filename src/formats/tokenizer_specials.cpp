#include "formats/tokenizer_specials.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <tuple>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"

namespace linnet::formats {

namespace {

// Offsets from the first special id, as in the published tokenizer (163584 = first).
struct KimiName {
  int32_t offset;
  const char* name;
};
constexpr KimiName kKimiNames[] = {
    {0, "[BOS]"},
    {1, "[EOS]"},
    {2, "<|im_end|>"},
    {3, "<|im_user|>"},
    {4, "<|im_assistant|>"},
    {6, "<|start_header_id|>"},
    {7, "<|end_header_id|>"},
    {9, "[EOT]"},
    {10, "<|im_system|>"},
    {11, "<|tool_calls_section_begin|>"},
    {12, "<|tool_calls_section_end|>"},
    {13, "<|tool_call_begin|>"},
    {14, "<|tool_call_argument_begin|>"},
    {15, "<|tool_call_end|>"},
    {17, "<|im_middle|>"},
    {254, "[UNK]"},
    {255, "[PAD]"},
};

JsonFields read_if_exists(const std::filesystem::path& file) {
  return exists(file) ? JsonFields::read(file) : JsonFields::parse("{}", file.string());
}

// A token is given by its text, or by an object with "content". None when the key is absent or null.
std::optional<std::string> optional_content(const JsonFields& fields, const std::string& key) {
  const bool is_object = fields.kind(key) == JsonKind::object;
  const std::optional<std::string> content =
      is_object ? fields.object(key).string("content") : fields.optional_string(key);
  if (content && content->empty()) throw fields.error(key, "the text of a token");
  return content;
}

std::vector<SpecialToken> read_added_tokens(const JsonFields& added, TokenId first) {
  std::vector<SpecialToken> tokens;
  for (const std::string& key : added.keys()) {
    TokenId id = -1;
    const auto [stop, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || stop != key.data() + key.size() || id < first || id - first >= SpecialTokens::kCount) {
      throw FormatError(cat(added.place(key), ": expected an id in ", first, "..", first + SpecialTokens::kCount - 1,
                            " (after the ranks), got \"", printable(key, 40), "\""));
    }
    const std::optional<std::string> content = optional_content(added, key);
    if (!content) throw added.error(key, "the text of a token");
    const bool is_object = added.kind(key) == JsonKind::object;
    const bool special = !is_object || added.object(key).optional_boolean("special").value_or(true);
    tokens.push_back({id, *content, !special});
  }
  return tokens;
}

}  // namespace

SpecialTokens::SpecialTokens(TokenId first, const std::vector<SpecialToken>& named, const std::string& origin)
    : first_(first), names_(kCount), visible_(kCount, false), sorted_(kCount) {
  for (TokenId id = first; id < end(); ++id) names_[index(id)] = cat("<|reserved_token_", id, "|>");
  for (const SpecialToken& token : named) {
    names_[index(token.id)] = token.name;
    visible_[index(token.id)] = token.visible;
  }

  std::iota(sorted_.begin(), sorted_.end(), first);
  std::sort(sorted_.begin(), sorted_.end(),
            [this](TokenId a, TokenId b) { return std::tie(name(a), a) < std::tie(name(b), b); });
  for (size_t i = 0; i < sorted_.size(); ++i) {
    const std::string& token = name(sorted_[i]);
    if (i > 0 && token == name(sorted_[i - 1])) {
      throw FormatError(cat(origin, ": expected distinct names, got \"", printable(token, 40), "\" for ",
                            sorted_[i - 1], " and ", sorted_[i]));
    }
    if (first_bytes_.empty() || first_bytes_.back() != token[0]) first_bytes_ += token[0];
  }
  bos = find("[BOS]");
  eos = find("<|im_end|>");
  pad = find("[PAD]");
  unk = find("[UNK]");
}

SpecialTokens SpecialTokens::kimi(TokenId first) {
  std::vector<SpecialToken> tokens;
  for (const KimiName& kimi : kKimiNames) tokens.push_back({first + kimi.offset, kimi.name, false});
  return SpecialTokens(first, tokens, "built-in");
}

SpecialTokens SpecialTokens::load(const std::filesystem::path& dir, TokenId first) {
  const JsonFields config = read_if_exists(dir / "tokenizer_config.json");
  const JsonFields map = read_if_exists(dir / "special_tokens_map.json");
  const std::optional<JsonFields> added = config.optional_object("added_tokens_decoder");
  SpecialTokens specials =
      added ? SpecialTokens(first, read_added_tokens(*added, first), config.place("added_tokens_decoder"))
            : kimi(first);

  const auto set_role = [&](const char* key, std::optional<TokenId>& role) {
    const JsonFields& fields = config.has(key) ? config : map;
    const std::optional<std::string> name = optional_content(fields, key);
    if (!name) return;
    role = specials.find(*name);
    if (!role) throw fields.error(key, "the name of a special token");
  };
  set_role("bos_token", specials.bos);
  set_role("eos_token", specials.eos);
  set_role("pad_token", specials.pad);
  set_role("unk_token", specials.unk);
  return specials;
}

std::optional<TokenId> SpecialTokens::find(std::string_view token) const noexcept {
  const auto at = std::lower_bound(sorted_.begin(), sorted_.end(), token,
                                   [this](TokenId id, std::string_view text) { return name(id) < text; });
  return at != sorted_.end() && name(*at) == token ? std::optional(*at) : std::nullopt;
}

// Narrows the sorted names to those that agree with text byte by byte; a name that ends where the narrowing has come to
// is the first of the range.
std::optional<SpecialTokens::Match> SpecialTokens::match_at(std::string_view text, size_t at) const noexcept {
  std::optional<Match> longest;
  auto low = sorted_.begin(), high = sorted_.end();
  for (size_t depth = 0; low != high; ++depth) {
    if (name(*low).size() == depth) {
      longest = {at, at + depth, *low};
      if (++low == high) break;
    }
    if (at + depth == text.size()) break;
    const auto byte = static_cast<uint8_t>(text[at + depth]);
    const auto key = [&](TokenId id) { return static_cast<uint8_t>(name(id)[depth]); };
    low = std::lower_bound(low, high, byte, [&](TokenId id, uint8_t b) { return key(id) < b; });
    high = std::upper_bound(low, high, byte, [&](uint8_t b, TokenId id) { return b < key(id); });
  }
  return longest;
}

std::optional<SpecialTokens::Match> SpecialTokens::next_match(std::string_view text, size_t from) const noexcept {
  for (size_t at = text.find_first_of(first_bytes_, from); at != text.npos;
       at = text.find_first_of(first_bytes_, at + 1)) {
    if (const auto match = match_at(text, at)) return match;
  }
  return std::nullopt;
}

}  // namespace linnet::formats
