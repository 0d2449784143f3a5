#include "train/bpe_train.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "core/errors.h"
#include "core/rng.h"
#include "core/text.h"
#include "formats/tokenizer_ranks.h"

namespace linnet::train {
namespace {

using formats::TokenId;

constexpr uint32_t kNoPair = UINT32_MAX;

// Open addressing from a 64-bit key to an index; no key is all ones.
class PairTable {
 public:
  PairTable() : slots_(1 << 16) {}

  // The place of a key's value, which is kNoPair for a new key. Good until the next call.
  uint32_t& operator[](uint64_t key) {
    if (2 * (n_ + 1) > slots_.size()) grow();
    Slot& slot = find(key);
    if (slot.key != key) slot = {key, kNoPair}, ++n_;
    return slot.value;
  }

 private:
  struct Slot {
    uint64_t key = UINT64_MAX;
    uint32_t value = kNoPair;
  };
  Slot& find(uint64_t key) {
    const size_t mask = slots_.size() - 1;
    size_t at = mix64(key) & mask;
    while (slots_[at].key != key && slots_[at].key != UINT64_MAX) at = (at + 1) & mask;
    return slots_[at];
  }
  void grow() {
    std::vector<Slot> old(slots_.size() * 2);
    std::swap(old, slots_);
    for (const Slot& slot : old)
      if (slot.key != UINT64_MAX) find(slot.key) = slot;
  }

  std::vector<Slot> slots_;
  size_t n_ = 0;
};

// Two tokens that stand side by side, or once did. One pair is one byte string: where a string begins and ends at symbol borders, no
// merge crossed these, so those inside went as they go in the string alone, and at any time all its places are cut alike. For the
// same reason no pair makes a token that exists: its places would be that token.
struct Pair {
  TokenId left, right;
  int64_t count = 0;
  bool raised = false;          // the count has risen since the pair was last put into the heap
  std::vector<uint32_t> words;  // where it is, or was
};

struct Word {
  uint64_t begin;  // of its symbols
  uint32_t size;
  int64_t count;
};

class Trainer {
 public:
  Trainer(PieceCounts&& counts, int64_t min_count) : min_count_(min_count) {
    for (int byte = 0; byte < 256; ++byte) tokens_.emplace_back(1, static_cast<char>(byte));
    read_words(PieceCounts(std::move(counts)));  // its memory is then free for the lists
    for (uint32_t w = 0; w < words_.size(); ++w) {
      const TokenId* s = &symbols_[words_[w].begin];
      for (uint32_t i = 0; i + 1 < words_[w].size; ++i) add_pair(w, s[i], s[i + 1]);
    }
    put_raised_into_heap();
  }

  // False when no string occurs min_count times.
  bool add_token() {
    const uint32_t best = take_best();
    if (best == kNoPair) return false;
    const auto token = static_cast<TokenId>(tokens_.size());
    tokens_.push_back(text_of(best));
    const TokenId left = pairs_[best].left, right = pairs_[best].right;
    const std::vector<uint32_t> words = std::exchange(pairs_[best].words, {});
    for (const uint32_t w : words) merge_in(w, left, right, token);
    assert(pairs_[best].count == 0);
    put_raised_into_heap();
    return true;
  }

  std::vector<std::string>& tokens() { return tokens_; }

 private:
  struct HeapEntry {
    int64_t count;
    uint32_t pair;
  };

  void read_words(const PieceCounts& counts) {
    size_t n_words = 0, n_symbols = 0;
    for (size_t i = 0; i < counts.size(); ++i)
      if (counts.piece(i).size() > 1) ++n_words, n_symbols += counts.piece(i).size();
    words_.reserve(n_words);
    symbols_.reserve(n_symbols);
    for (size_t i = 0; i < counts.size(); ++i) {
      const std::string_view piece = counts.piece(i);
      if (piece.size() < 2) continue;
      words_.push_back({symbols_.size(), static_cast<uint32_t>(piece.size()), counts.count(i)});
      for (char c : piece) symbols_.push_back(static_cast<uint8_t>(c));
    }
  }

  std::string text_of(uint32_t p) const {
    return tokens_[static_cast<size_t>(pairs_[p].left)] + tokens_[static_cast<size_t>(pairs_[p].right)];
  }

  uint32_t pair_of(TokenId left, TokenId right) {
    uint32_t& pair = by_tokens_[static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right)];
    if (pair == kNoPair) {
      pair = static_cast<uint32_t>(pairs_.size());
      pairs_.push_back({.left = left, .right = right});
    }
    return pair;
  }

  void add_pair(uint32_t w, TokenId left, TokenId right) {
    const uint32_t p = pair_of(left, right);
    Pair& pair = pairs_[p];
    pair.count += words_[w].count;
    if (pair.words.empty() || pair.words.back() != w) pair.words.push_back(w);
    if (!pair.raised) pair.raised = true, raised_.push_back(p);
  }

  void remove_pair(uint32_t w, TokenId left, TokenId right) { pairs_[pair_of(left, right)].count -= words_[w].count; }

  // Makes `token` of left and right wherever they stand in a word. Symbols [0, l) are done, [r, n) are to come, and what lies
  // between is free.
  void merge_in(uint32_t w, TokenId left, TokenId right, TokenId token) {
    TokenId* s = &symbols_[words_[w].begin];
    const uint32_t n = words_[w].size;
    uint32_t l = 0;
    for (uint32_t r = 0; r < n; ++r) {
      if (l == 0 || s[l - 1] != left || s[r] != right) {
        s[l++] = s[r];
        continue;
      }
      --l;
      if (l > 0) remove_pair(w, s[l - 1], left), add_pair(w, s[l - 1], token);
      if (r + 1 < n) remove_pair(w, right, s[r + 1]), add_pair(w, token, s[r + 1]);
      remove_pair(w, left, right);
      s[l++] = token;
    }
    words_[w].size = l;
  }

  auto order() const {  // less: the heap's top is its greatest element
    return [this](const HeapEntry& a, const HeapEntry& b) {
      if (a.count != b.count) return a.count < b.count;
      return a.pair != b.pair && text_of(b.pair) < text_of(a.pair);
    };
  }

  // The heap holds for every pair that may become a token an entry at least as high as its count.
  void put_raised_into_heap() {
    for (const uint32_t p : raised_) {
      pairs_[p].raised = false;
      push_if_wanted(p);
    }
    raised_.clear();
  }

  uint32_t take_best() {
    while (!heap_.empty()) {
      const HeapEntry top = heap_.front();
      std::pop_heap(heap_.begin(), heap_.end(), order());
      heap_.pop_back();
      if (top.count < pairs_[top.pair].count) continue;
      if (top.count == pairs_[top.pair].count) return top.pair;
      push_if_wanted(top.pair);
    }
    return kNoPair;
  }

  void push_if_wanted(uint32_t p) {
    if (pairs_[p].count < min_count_) return;
    heap_.push_back({pairs_[p].count, p});
    std::push_heap(heap_.begin(), heap_.end(), order());
  }
  int64_t min_count_;
  std::vector<std::string> tokens_;
  std::vector<Word> words_;
  std::vector<TokenId> symbols_;
  std::vector<Pair> pairs_;
  PairTable by_tokens_;
  std::vector<uint32_t> raised_;
  std::vector<HeapEntry> heap_;
};

}  // namespace

std::vector<std::string> train_bpe(PieceCounts&& counts, const BpeTrainOptions& options,
                                   FunctionRef<void(int64_t, int64_t)> progress) {
  if (options.n_tokens < 256)
    throw InvalidArgument(cat("tokenizer: expected at least 256 tokens, one for each byte, got ", options.n_tokens));
  if (options.min_count < 1)
    throw InvalidArgument(cat("tokenizer: least count: expected at least 1, got ", options.min_count));
  Trainer trainer(std::move(counts), options.min_count);
  while (std::ssize(trainer.tokens()) < options.n_tokens && trainer.add_token())
    progress(std::ssize(trainer.tokens()), options.n_tokens);
  return std::move(trainer.tokens());
}

}  // namespace linnet::train
