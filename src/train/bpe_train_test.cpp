// Byte-pair training against its definition, carried out literally on small texts.
#include "train/bpe_train.h"

#include <gmock/gmock.h>

#include <map>

#include "core/errors.h"
#include "core/rng.h"
#include "formats/tokenizer_bpe.h"

namespace linnet::train {
namespace {

using formats::RankTable;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr size_t kPlenty = size_t{1} << 30;
const auto kSilent = [](int64_t, int64_t) {};

using Pieces = std::map<std::string, int64_t>;

// The comment of train_bpe(), word for word: each round cuts all pieces anew.
std::vector<std::string> naive_bpe(const Pieces& pieces, size_t n_tokens, int64_t min_count) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  while (tokens.size() < n_tokens) {
    const RankTable table = RankTable::parse(formats::ranks_file_text(tokens), "so far");
    std::map<std::string, int64_t> counts;
    for (const auto& [piece, count] : pieces) {
      std::vector<formats::TokenId> ids;
      formats::append_bpe(table, piece, ids);
      for (size_t i = 0; i + 1 < ids.size(); ++i)
        counts[std::string(table.bytes(ids[i])) + std::string(table.bytes(ids[i + 1]))] += count;
    }
    const auto best = std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) {
      return a.second < b.second;  // the first of equals: maps are in byte order
    });
    if (best == counts.end() || best->second < min_count) break;
    tokens.push_back(best->first);
  }
  return tokens;
}

std::vector<std::string> trained(const Pieces& pieces, int64_t n_tokens, int64_t min_count = 2) {
  PieceCounts counts(kPlenty);
  for (const auto& [piece, count] : pieces) counts.add(piece, count);
  return train_bpe(std::move(counts), {.n_tokens = n_tokens, .min_count = min_count}, kSilent);
}

std::vector<std::string> merges(const std::vector<std::string>& tokens) { return {tokens.begin() + 256, tokens.end()}; }

TEST(bpe_train, a_case_done_by_hand) {
  // er 9; w+er 8; l+o 7 (as o+w was once, but two of them have become "wer"); then e+wer and n+e 6 each: in byte order; n+ewer 6.
  const auto tokens = trained({{"low", 5}, {"lower", 2}, {"newer", 6}, {"wider", 1}}, 256 + 5);
  EXPECT_THAT(merges(tokens), ElementsAre("er", "wer", "lo", "ewer", "newer"));
  EXPECT_EQ(merges(tokens), merges(naive_bpe({{"low", 5}, {"lower", 2}, {"newer", 6}, {"wider", 1}}, 256 + 5, 2)));
}

// Few letters and long pieces: strings that several pairs of tokens make, and tokens that a later one makes possible, are common.
TEST(bpe_train, equals_the_definition_on_random_pieces) {
  int n_tokens = 0;
  for (uint64_t seed = 0; seed < 150; ++seed) {
    Rng rng(seed);
    Pieces pieces;
    const uint64_t letters = 1 + rng.bits() % 4, n_pieces = 1 + rng.bits() % 30, longest = 2 + rng.bits() % 60;
    for (uint64_t i = 0; i < n_pieces; ++i) {
      std::string piece;
      for (uint64_t n = 1 + rng.bits() % longest; n > 0; --n) piece += static_cast<char>(0xfe + rng.bits() % letters);
      pieces[piece] += static_cast<int64_t>(1 + rng.bits() % 20);
    }
    const int64_t min_count = static_cast<int64_t>(1 + rng.bits() % 3);
    const auto expected = naive_bpe(pieces, 256 + 60, min_count);
    ASSERT_EQ(trained(pieces, 256 + 60, min_count), expected) << "seed " << seed;
    n_tokens += static_cast<int>(expected.size()) - 256;
  }
  EXPECT_GT(n_tokens, 3000);
}

TEST(bpe_train, equals_the_definition_on_text) {
  const std::string text =
      "The linnet is a small passerine bird of the finch family. It derives its common name from its fondness for "
      "hemp seeds and flax seeds.\n\n  int main(int argc, char** argv) {\n    return argc - 1;\n  }\n"
      "\u6625\u7720\u4e0d\u89ba\u66c9\uff0c\u8655\u8655\u805e\u557c\u9ce5\u3002 1234567 \xff\xfe the the the theory";
  PieceCounts counts(kPlenty);
  counts.add_text(formats::PreTokenizer(), text, 1);
  Pieces pieces;
  for (size_t i = 0; i < counts.size(); ++i) pieces[std::string(counts.piece(i))] = counts.count(i);
  EXPECT_EQ(pieces[" the"], 4);
  EXPECT_EQ(pieces.count("\xff"), 0u);
  EXPECT_EQ(trained(pieces, 400), naive_bpe(pieces, 400, 2));
}

TEST(bpe_train, the_order_of_pieces_does_not_matter) {
  const std::vector<std::pair<std::string, int64_t>> pieces = {
      {"abab", 3}, {"babab", 3}, {"cdcd", 3}, {"dcdc", 3}, {"aabb", 3}};
  PieceCounts forward(kPlenty), backward(kPlenty);
  for (size_t i = 0; i < pieces.size(); ++i) {
    forward.add(pieces[i].first, pieces[i].second);
    backward.add(pieces[pieces.size() - 1 - i].first, pieces[pieces.size() - 1 - i].second);
  }
  EXPECT_EQ(train_bpe(std::move(forward), {.n_tokens = 270}, kSilent),
            train_bpe(std::move(backward), {.n_tokens = 270}, kSilent));
}

TEST(bpe_train, ends_early_where_nothing_occurs_twice) {
  EXPECT_EQ(trained({}, 1000).size(), 256u);
  EXPECT_EQ(trained({{"a", 100}, {"bc", 1}}, 1000).size(), 256u);
  EXPECT_EQ(trained({{"a", 100}, {"bc", 1}}, 1000, 1).size(), 257u);
  EXPECT_EQ(trained({{"abcd", 2}}, 1000).size(), 259u);
  try {
    trained({}, 255);
    FAIL();
  } catch (const InvalidArgument& e) { EXPECT_THAT(e.what(), HasSubstr("got 255")); }
}

TEST(piece_counts, counts_and_weights) {
  PieceCounts counts(kPlenty);
  for (int i = 0; i < 100'000; ++i) counts.add(std::to_string(i % 5000), 1 + i % 2);
  ASSERT_EQ(counts.size(), 5000u);
  for (size_t i = 0; i < counts.size(); ++i) {
    EXPECT_EQ(counts.piece(i), std::to_string(i));
    EXPECT_EQ(counts.count(i), i % 2 == 0 ? 20 : 40);
  }
  EXPECT_EQ(counts.n_prunings(), 0);
}

// A flood of strings seen once does not drive out what is frequent, nor grow the table beyond its limit.
TEST(piece_counts, forgets_what_is_rare) {
  constexpr size_t kLimit = size_t{1} << 20;
  PieceCounts counts(kLimit);
  constexpr int kRounds = 100'000;
  size_t most_bytes = 0;
  for (int i = 0; i < kRounds; ++i) {
    counts.add("frequent", 1);
    counts.add("rare-" + std::to_string(i), 1);
    most_bytes = std::max(most_bytes, counts.size());
  }
  EXPECT_LT(most_bytes * PieceCounts::cost_bytes(6), kLimit);
  EXPECT_EQ(counts.piece(0), "frequent");
  EXPECT_EQ(counts.count(0), kRounds);
  EXPECT_GT(counts.n_prunings(), 10);
  EXPECT_EQ(counts.forgotten_below(), 1);
}

TEST(piece_counts, a_limit_without_room_for_work_is_refused) {
  try {
    PieceCounts counts(1000);
    FAIL();
  } catch (const InvalidArgument& e) { EXPECT_THAT(e.what(), HasSubstr("at least 1.00 MiB")); }
}

}  // namespace
}  // namespace linnet::train
