#include "runtime/constraint/token_trie.h"

#include <algorithm>
#include <numeric>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {

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
}

std::string_view TokenTrie::bytes_of(int32_t token) const {
  const auto i = static_cast<size_t>(token);
  if (token < 0 || i >= ends_.size()) return {};
  const size_t begin = i == 0 ? 0 : ends_[i - 1];
  return std::string_view(arena_).substr(begin, ends_[i] - begin);
}

}  // namespace linnet::runtime
