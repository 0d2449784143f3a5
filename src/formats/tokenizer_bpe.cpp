#include "formats/tokenizer_bpe.h"

#include <algorithm>
#include <array>
#include <queue>

namespace linnet::formats {

namespace {

constexpr TokenId kNone = RankTable::kNone;
constexpr size_t kShort = 64;  // bytes up to which a scan for the lowest rank beats a heap

// Merges by scanning all pairs for the lowest rank: n^2 in the worst case, but n is at most kShort and nothing is allocated.
void append_short(const RankTable& ranks, std::string_view piece, std::vector<TokenId>& out) {
  struct Part {
    uint32_t begin;
    TokenId pair_rank;  // rank of this part and the next one together
  };
  std::array<Part, kShort + 1> parts;
  size_t n = piece.size();
  for (size_t i = 0; i <= n; ++i) {
    parts[i] = {static_cast<uint32_t>(i), i + 2 <= n ? ranks.rank_of(piece.substr(i, 2)) : kNone};
  }

  const auto pair_rank = [&](size_t i) {
    return i + 2 <= n ? ranks.rank_of(piece.substr(parts[i].begin, parts[i + 2].begin - parts[i].begin)) : kNone;
  };
  for (;;) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (parts[i].pair_rank < parts[best].pair_rank) best = i;
    }
    if (parts[best].pair_rank == kNone) break;
    std::copy(&parts[best + 2], &parts[n + 1], &parts[best + 1]);
    --n;
    parts[best].pair_rank = pair_rank(best);
    if (best > 0) parts[best - 1].pair_rank = pair_rank(best - 1);
  }
  for (size_t i = 0; i < n; ++i) {
    out.push_back(ranks.rank_of(piece.substr(parts[i].begin, parts[i + 1].begin - parts[i].begin)));
  }
}

// The same merges in n log n: parts in a linked list, pairs in a heap ordered by (rank, place). A pair that has changed since
// it was pushed is recognised by its rank: a place and a rank name one byte string.
class LongPiece {
 public:
  LongPiece(const RankTable& ranks, std::string_view piece) : ranks_(ranks), piece_(piece), parts_(piece.size() + 1) {
    const auto n = static_cast<uint32_t>(piece.size());
    for (uint32_t i = 0; i <= n; ++i) parts_[i] = {i == 0 ? 0 : i - 1, std::min(i + 1, n), kNone};
    for (uint32_t i = 0; i < n; ++i) update(i);
  }

  void merge() {
    while (!heap_.empty()) {
      const Pair pair = heap_.top();
      heap_.pop();
      if (parts_[pair.begin].pair_rank != pair.rank) continue;
      const uint32_t second = parts_[pair.begin].next, third = parts_[second].next;
      parts_[second].pair_rank = kNone;
      parts_[pair.begin].next = third;
      parts_[third].previous = pair.begin;
      update(pair.begin);
      if (pair.begin != 0) update(parts_[pair.begin].previous);
    }
  }

  void append_to(std::vector<TokenId>& out) const {
    for (uint32_t at = 0; at < piece_.size(); at = parts_[at].next) {
      out.push_back(ranks_.rank_of(piece_.substr(at, parts_[at].next - at)));
    }
  }

 private:
  struct Part {  // index = first byte; the last entry stands for the end of the piece
    uint32_t previous, next;
    TokenId pair_rank;
  };
  struct Pair {
    TokenId rank;
    uint32_t begin;
    bool operator<(const Pair& other) const {  // the heap's top is its greatest element
      return rank != other.rank ? rank > other.rank : begin > other.begin;
    }
  };

  void update(uint32_t begin) {
    const uint32_t second = parts_[begin].next;
    const bool last = second == piece_.size();
    const TokenId rank = last ? kNone : ranks_.rank_of(piece_.substr(begin, parts_[second].next - begin));
    parts_[begin].pair_rank = rank;
    if (rank != kNone) heap_.push({rank, begin});
  }

  const RankTable& ranks_;
  std::string_view piece_;
  std::vector<Part> parts_;
  std::priority_queue<Pair> heap_;
};

}  // namespace

void append_bpe(const RankTable& ranks, std::string_view piece, std::vector<TokenId>& out) {
  if (const TokenId whole = ranks.rank_of(piece); whole != kNone) return out.push_back(whole);
  if (piece.size() <= kShort) return append_short(ranks, piece, out);
  LongPiece parts(ranks, piece);
  parts.merge();
  parts.append_to(out);
}

}  // namespace linnet::formats
