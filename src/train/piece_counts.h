// PieceCounts: how often each piece of the pre-tokeniser occurs, in bounded memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tokenizer_split.h"

namespace linnet::train {

// A table from piece to count. When it would outgrow its limit, the rarest pieces are forgotten until it is at most half full:
// a count is then too low by at most forgotten_below() for each time this happened. What is forgotten depends on the order of
// the text and on the limit, on nothing else.
class PieceCounts {
 public:
  // What one piece costs here and in the training that follows: its entry and its share of the table (48 bytes), and for each byte
  // the byte itself, a symbol and a place in the lists of words (16 bytes, with what vectors grow ahead).
  static constexpr size_t cost_bytes(size_t piece_size) { return 48 + 16 * piece_size; }

  explicit PieceCounts(size_t limit_bytes);

  void add(std::string_view piece, int64_t count);  // count > 0; an empty piece is none
  // The pieces of a text as formats::Tokenizer::encode cuts it; ill-formed bytes stand alone and are no pieces.
  void add_text(const formats::PreTokenizer& pre_tokenizer, std::string_view text, int64_t count);

  size_t size() const noexcept { return entries_.size(); }
  std::string_view piece(size_t i) const noexcept {  // in order of first appearance
    return std::string_view(arena_).substr(entries_[i].begin, entries_[i].size);
  }
  int64_t count(size_t i) const noexcept { return entries_[i].count; }

  int64_t n_prunings() const noexcept { return n_prunings_; }
  int64_t forgotten_below() const noexcept { return forgotten_below_; }  // the highest count that was ever forgotten

 private:
  struct Entry {
    uint64_t begin;  // in the arena
    int64_t count;
    uint32_t size;
    uint32_t tag;  // upper half of the hash
  };
  size_t slot_of(std::string_view piece, uint64_t hash) const noexcept;
  void rebuild(size_t n_slots);
  void prune();
  void keep_above(int64_t count);

  size_t limit_bytes_, cost_ = 0;
  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // entry + 1, 0 = free; a power of two, at most half full
  int64_t n_prunings_ = 0, forgotten_below_ = 0;
};

}  // namespace linnet::train
