// TokenTrie: the texts of a vocabulary as a trie in preorder, to be walked with an automaton from beginning to end.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer.h"

namespace linnet::runtime {

class TokenTrie {
 public:
  struct Node {
    int32_t token;         // whose text ends here, or -1
    uint32_t skip;         // index of the next node that is not below this one
    uint32_t first_token;  // tokens that end at nodes before this one
    uint16_t depth;        // bytes before this one
    uint8_t byte;
    uint8_t plain;  // see below
  };

  // Characters that mean nothing anywhere in JSON but in strings and literals: these bytes, and all beyond ASCII. Subtrees of them
  // are masked whole. Node::plain: when a character begins with its byte and all texts from there on are plain, the characters of
  // the longest; else 0.
  static constexpr bool is_plain(uint8_t byte) { return byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\'; }

  // Text tokens with ids below n_ids: special tokens are not among them.
  TokenTrie(const formats::Tokenizer& tokenizer, int64_t n_ids);

  std::span<const Node> nodes() const { return std::span(nodes_).first(nodes_.size() - 1); }
  // Tokens whose texts end at `node` or below it.
  std::span<const int32_t> tokens_below(const Node& node) const {
    const uint32_t end = nodes_[node.skip].first_token;
    return std::span(tokens_).subspan(node.first_token, end - node.first_token);
  }
  int64_t n_ids() const { return n_ids_; }
  size_t max_depth() const { return max_depth_; }  // bytes of the longest token
  std::string_view bytes_of(int32_t token) const;  // empty: no text token

 private:
  void mark_plain();

  int64_t n_ids_;
  std::vector<Node> nodes_;      // and one behind the last
  std::vector<int32_t> tokens_;  // in order of the nodes
  std::string arena_;
  std::vector<uint32_t> ends_;  // by token
  size_t max_depth_ = 0;
};

}  // namespace linnet::runtime
