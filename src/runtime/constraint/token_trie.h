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
    int32_t token;   // whose text ends here, or -1
    uint32_t skip;   // index of the next node that is not below this one
    uint16_t depth;  // bytes before this one
    uint8_t byte;
  };

  // Text tokens with ids below n_ids: special tokens are not among them.
  TokenTrie(const formats::Tokenizer& tokenizer, int64_t n_ids);

  std::span<const Node> nodes() const { return nodes_; }
  int64_t n_ids() const { return n_ids_; }
  size_t max_depth() const { return max_depth_; }  // bytes of the longest token
  std::string_view bytes_of(int32_t token) const;  // empty: no text token

 private:
  int64_t n_ids_;
  std::vector<Node> nodes_;
  std::string arena_;
  std::vector<uint32_t> ends_;  // by token
  size_t max_depth_ = 0;
};

}  // namespace linnet::runtime
