#include "runtime/constraint/token_trie.h"

#include <algorithm>
#include <numeric>

#include "core/errors.h"
#include "core/text.h"
#include "formats/utf8.h"

namespace linnet::runtime {
namespace {

// Characters of a text that is plain; its last one may lack its end. 0: it is not, or has too many.
uint8_t plain_characters(std::string_view text) {
  uint8_t n = 0;
  for (; !text.empty() && n < UINT8_MAX; ++n) {
    const formats::Utf8Step step = formats::utf8_step(text);
    const auto first = static_cast<uint8_t>(text[0]);
    if (step.kind == formats::Utf8Kind::invalid || (first < 0x80 && !TokenTrie::is_plain(first))) return 0;
    text.remove_prefix(step.length);
  }
  return text.empty() ? n : uint8_t{0};
}

}  // namespace

TokenTrie::TokenTrie(const formats::Tokenizer& tokenizer, int64_t n_ids) : n_ids_(n_ids) {
  const formats::RankTable& ranks = tokenizer.ranks();
  std::vector<int32_t> order(static_cast<size_t>(std::min<int64_t>(n_ids, ranks.size())));
  std::iota(order.begin(), order.end(), 0);
  for (int32_t id : order) {
    if (ranks.bytes(id).size() > UINT16_MAX)
      throw Unsupported(cat("token ", id, ": expected at most ", UINT16_MAX, " bytes, got ", ranks.bytes(id).size()));
    arena_ += ranks.bytes(id);
    ends_.push_back(static_cast<uint32_t>(arena_.size()));
    max_depth_ = std::max(max_depth_, ranks.bytes(id).size());
  }
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return bytes_of(a) < bytes_of(b); });
  std::vector<uint32_t> path;  // nodes of the text before, by depth
  std::string_view before;
  for (int32_t id : order) {
    const std::string_view text = bytes_of(id);
    const auto parting = std::mismatch(text.begin(), text.end(), before.begin(), before.end()).first;
    const auto shared = static_cast<size_t>(parting - text.begin());
    for (; path.size() > shared; path.pop_back()) nodes_[path.back()].skip = static_cast<uint32_t>(nodes_.size());
    for (size_t i = shared; i < text.size(); ++i) {
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back(
          {.token = -1, .skip = 0, .depth = static_cast<uint16_t>(i), .byte = static_cast<uint8_t>(text[i])});
    }
    if (!path.empty()) nodes_[path.back()].token = id;
    before = text;
  }
  for (uint32_t node : path) nodes_[node].skip = static_cast<uint32_t>(nodes_.size());
  nodes_.push_back({.token = -1, .skip = static_cast<uint32_t>(nodes_.size())});
  for (Node& node : nodes_) {
    node.first_token = static_cast<uint32_t>(tokens_.size());
    if (node.token >= 0) tokens_.push_back(node.token);
  }
  mark_plain();
}

void TokenTrie::mark_plain() {
  struct Open {
    uint32_t node;
    uint8_t before;   // characters that begin before it
    uint8_t longest;  // characters of the longest text at it or below
    bool plain;
  };
  std::vector<Open> path;
  const auto begins_character = [&](uint32_t node) { return (nodes_[node].byte & 0xc0) != 0x80; };
  const auto close = [&] {
    const Open done = path.back();
    path.pop_back();
    const bool plain = done.plain && begins_character(done.node);
    nodes_[done.node].plain = plain ? static_cast<uint8_t>(done.longest - done.before) : uint8_t{0};
    if (path.empty()) return;
    path.back().plain = path.back().plain && done.plain;
    path.back().longest = std::max(path.back().longest, done.longest);
  };
  for (uint32_t i = 0; i + 1 < nodes_.size(); ++i) {
    while (path.size() > nodes_[i].depth) close();
    const bool is_text = nodes_[i].token >= 0;
    const uint8_t n = is_text ? plain_characters(bytes_of(nodes_[i].token)) : uint8_t{0};
    int before = path.empty() ? 0 : path.back().before + begins_character(path.back().node);
    path.push_back({i, static_cast<uint8_t>(std::min(before, UINT8_MAX)), n, !is_text || n > 0});
  }
  while (!path.empty()) close();
}

std::string_view TokenTrie::bytes_of(int32_t token) const {
  const auto i = static_cast<size_t>(token);
  if (token < 0 || i >= ends_.size()) return {};
  const size_t begin = i == 0 ? 0 : ends_[i - 1];
  return std::string_view(arena_).substr(begin, ends_[i] - begin);
}

}  // namespace linnet::runtime
