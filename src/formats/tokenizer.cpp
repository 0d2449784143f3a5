#include "formats/tokenizer.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"
#include "formats/tokenizer_bpe.h"
#include "formats/utf8.h"

namespace linnet::formats {

Tokenizer::Tokenizer(RankTable ranks, SpecialTokens specials)
    : ranks_(std::move(ranks)), specials_(std::move(specials)) {}

Tokenizer Tokenizer::load(const std::filesystem::path& dir) {
  RankTable ranks = RankTable::load(dir / "tiktoken.model");
  SpecialTokens specials = SpecialTokens::load(dir, ranks.size());
  return Tokenizer(std::move(ranks), std::move(specials));
}

Tokenizer Tokenizer::load_ranks_file(const std::filesystem::path& file) {
  RankTable ranks = RankTable::load(file);
  SpecialTokens specials = SpecialTokens::kimi(ranks.size());
  return Tokenizer(std::move(ranks), std::move(specials));
}

std::string_view Tokenizer::bytes_of(TokenId id) const {
  if (id < 0 || id >= vocab_size()) {
    throw InvalidArgument(cat("tokenizer: id: expected 0..", vocab_size() - 1, ", got ", id));
  }
  return is_special(id) ? std::string_view(specials_.name(id)) : ranks_.bytes(id);
}

std::vector<TokenId> Tokenizer::stop_ids() const {
  std::vector<TokenId> ids;
  for (const auto id : {eos_id(), special_id("[EOS]"), special_id("[EOT]"), special_id("<|im_end|>")}) {
    if (id && std::find(ids.begin(), ids.end(), *id) == ids.end()) ids.push_back(*id);
  }
  return ids;
}

uint64_t Tokenizer::hash() const {
  uint64_t hash = 0;
  for (TokenId id = 0; id < vocab_size(); ++id) hash = XXH64(bytes_of(id).data(), bytes_of(id).size(), hash);
  return hash;
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, SpecialPolicy policy) const {
  const ByteRange all{0, text.size()};
  return encode(text, std::span(&all, policy == SpecialPolicy::parse ? 1 : 0));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, std::span<const ByteRange> control) const {
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 3);
  // Slices come before special tokens: a name that a slice cuts in two is text, as in the published class.
  for_each_slice(text, [&](std::string_view slice) {
    const auto slice_begin = static_cast<size_t>(slice.data() - text.data()), slice_end = slice_begin + slice.size();
    size_t done = slice_begin;
    for (const ByteRange& range : control) {
      const size_t end = std::min(range.end, slice_end);
      for (size_t from = std::max(range.begin, slice_begin); from < end;) {
        const auto special = specials_.next_match(text.substr(0, end), from);
        if (!special) break;
        append_text(text.substr(done, special->begin - done), ids);
        ids.push_back(special->id);
        from = done = special->end;
      }
    }
    append_text(text.substr(done, slice_end - done), ids);
  });
  return ids;
}

void Tokenizer::append_text(std::string_view text, std::vector<TokenId>& out) const {
  while (!text.empty()) {
    const size_t n = utf8_valid_prefix(text);
    pre_tokenizer_.for_each_piece(text.substr(0, n), [&](std::string_view piece) { append_bpe(ranks_, piece, out); });
    if (n == text.size()) break;
    out.push_back(ranks_.rank_of_byte(static_cast<uint8_t>(text[n])));
    text.remove_prefix(n + 1);
  }
}

std::string Tokenizer::decode(std::span<const TokenId> ids, SpecialText specials) const {
  std::string out;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size()) {
      throw InvalidArgument(cat("decode: ids[", i, "]: expected 0..", vocab_size() - 1, ", got ", ids[i]));
    }
    if (is_special(ids[i]) && specials == SpecialText::hidden && !specials_.visible(ids[i])) continue;
    out += bytes_of(ids[i]);
  }
  return out;
}

std::string StreamDecoder::push(std::span<const TokenId> ids) {
  std::string bytes = held_ + tokenizer_->decode(ids, specials_);  // held_ is kept when this throws
  // A sequence cut short by the end begins in the last three bytes.
  size_t complete = bytes.size();
  for (size_t tail = std::min<size_t>(3, bytes.size()); tail > 0; --tail) {
    const std::string_view end = std::string_view(bytes).substr(bytes.size() - tail);
    if (utf8_step(end).kind != Utf8Kind::incomplete) continue;
    complete = bytes.size() - tail;
    break;
  }
  held_ = bytes.substr(complete);
  bytes.resize(complete);
  return to_valid_utf8(bytes);
}

std::string StreamDecoder::flush() {
  std::string out = to_valid_utf8(held_);
  held_.clear();
  return out;
}

}  // namespace linnet::formats
