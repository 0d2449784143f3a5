// Ranks files, good and bad; base64; byte-pair merging against its definition.
#include "formats/tokenizer_ranks.h"

#include <gmock/gmock.h>

#include <set>

#include "core/errors.h"
#include "core/rng.h"
#include "formats/file_test_support.h"
#include "formats/tokenizer_base64.h"
#include "formats/tokenizer_bpe.h"

namespace linnet::formats {
namespace {

using testing::HasSubstr;

// The text of a file with the 256 bytes, then `more`.
std::string ranks_text(std::string_view more = "") {
  std::string text;
  for (int b = 0; b < 256; ++b)
    text += base64_encoded(std::string(1, static_cast<char>(b))) + " " + std::to_string(b) + "\n";
  return text + std::string(more);
}

TEST(ranks, lines_may_come_in_any_order_with_or_without_a_last_line_break) {
  for (const char* more : {"YWI= 257\nYWJj 256\n", "YWI= 257\nYWJj 256"}) {
    const RankTable table = RankTable::parse(ranks_text(more), "f");
    EXPECT_EQ(table.size(), 258);
    EXPECT_EQ(table.bytes(256), "abc");
    EXPECT_EQ(table.bytes(257), "ab");
    EXPECT_EQ(table.find("abc"), 256);
    EXPECT_EQ(table.find("b"), 'b');
    EXPECT_EQ(table.find("bc"), std::nullopt);
    EXPECT_EQ(table.find(""), std::nullopt);
    EXPECT_EQ(table.rank_of_byte(0xff), 255);
  }
}

TEST(ranks, bad_files_are_named_with_their_line) {
  struct Case {
    const char* more;
    const char* message;
  };
  const Case cases[] = {
      {"YWI= 258\nYWJj 257\n", "f:257: rank: expected 0..257 (the file has 258 lines), got \"258\""},  // a hole at 256
      {"YWI= 256\nYWJj 256\n", "f:258: rank: expected each rank once, got 256 as on line 257"},
      {"YWI= 5\n", "f:257: rank: expected each rank once, got 5 as on line 6"},
      {"YWI= 256\nYWI= 257\n", "f:258: token: expected each byte string once, got \"ab\" as on line 257"},
      {"YQ== 256\n", "f:257: token: expected each byte string once, got \"a\" as on line 98"},
      {"YWI 256\n", "f:257: token: expected base64, got \"YWI\""},
      {"YW=I 256\n", "f:257: token: expected base64, got \"YW=I\""},
      {"YW!= 256\n", "f:257: token: expected base64, got \"YW!=\""},
      {"YWJ= 256\n", "f:257: token: expected base64, got \"YWJ=\""},  // padding bits set: another spelling of "ab"
      {"==== 256\n", "f:257: token: expected base64, got \"====\""},
      {" 256\n", "f:257: token: expected at least one byte, got none"},
      {"YWI=\t256\n", "f:257: line: expected \"base64 rank\", got \"YWI=\\x09256\""},
      {"YWI= \n", "f:257: rank: expected a whole number, got \"\""},
      {"YWI= 256x\n", "f:257: rank: expected a whole number, got \"256x\""},
      {"YWI=  256\n", "f:257: rank: expected a whole number, got \" 256\""},
      {"YWI= -1\n", "f:257: rank: expected 0..256 (the file has 257 lines), got \"-1\""},
      {"YWI= 99999999999999999999\n",
       "f:257: rank: expected 0..256 (the file has 257 lines), got \"99999999999999999999\""},
      {"\nYWI= 256\n", "f:257: line: expected \"base64 rank\", got an empty line"},
      {"YWI= 256\n\n", "f:258: line: expected \"base64 rank\", got an empty line"},
      {"YWI= 256\r\n", "f:257: line: expected an end of line \\n, got \\r\\n"},
  };
  for (const Case& c : cases) {
    try {
      RankTable::parse(ranks_text(c.more), "f");
      ADD_FAILURE() << "accepted: " << c.more;
    } catch (const FormatError& e) { EXPECT_STREQ(e.what(), c.message) << c.more; }
  }
}

TEST(ranks, every_single_byte_must_be_a_token) {
  std::string text;
  for (int b = 0; b < 255; ++b)
    text += base64_encoded(std::string(1, static_cast<char>(b))) + " " + std::to_string(b) + "\n";
  for (const std::string& bad : {std::string(), text}) {
    try {
      RankTable::parse(bad, "f");
      ADD_FAILURE() << "accepted";
    } catch (const FormatError& e) {
      EXPECT_THAT(e.what(),
                  testing::AnyOf(testing::StrEq("f:1: line: expected \"base64 rank\", got an empty line"),
                                 testing::StrEq("f: tokens: expected all 256 single bytes, got none for byte 255")));
    }
  }
}

TEST(ranks, written_tables_read_back) {
  const ScratchFolder folder;
  const auto file = folder / "ranks";
  const std::vector<std::string> tokens = letter_vocabulary(20'000);
  write_ranks_file(file, tokens);
  const RankTable table = RankTable::load(file);
  ASSERT_EQ(table.size(), 20'000);
  for (TokenId id = 0; id < table.size(); ++id) ASSERT_EQ(table.bytes(id), tokens[static_cast<size_t>(id)]);
  EXPECT_THROW(write_ranks_file("/nonexistent/ranks", tokens), IoError);
}

TEST(ranks, letter_vocabulary_is_distinct_and_reachable_by_merges) {
  EXPECT_EQ(letter_vocabulary(256).size(), 256u);
  EXPECT_THROW(letter_vocabulary(255), InvalidArgument);
  const std::vector<std::string> tokens =
      letter_vocabulary(40'000);  // 256 + 26^2 + 26^3 = 18,508: some of four letters
  EXPECT_EQ(tokens[256], "aa");
  EXPECT_EQ(tokens[256 + 676], "aaa");
  EXPECT_EQ(tokens[18'508], "aaaa");
  const std::set<std::string> distinct(tokens.begin(), tokens.end());
  EXPECT_EQ(distinct.size(), tokens.size());
  for (const std::string& token : tokens) {
    EXPECT_TRUE(token.size() == 1 || distinct.contains(token.substr(0, token.size() - 1)));
  }
}

TEST(base64, every_length_and_value_reads_back) {
  Rng rng(3);
  for (size_t n = 0; n < 100; ++n) {
    std::string bytes(n, 0), back = "kept";
    for (char& b : bytes) b = static_cast<char>(rng.bits());
    ASSERT_TRUE(append_base64_decoded(base64_encoded(bytes), back));
    EXPECT_EQ(back, "kept" + bytes);
  }
  EXPECT_EQ(base64_encoded("\xfb\xff\xfe"), "+//+");
  EXPECT_EQ(base64_encoded("f"), "Zg==");  // RFC 4648, section 10
  EXPECT_EQ(base64_encoded("fo"), "Zm8=");
  EXPECT_EQ(base64_encoded("foobar"), "Zm9vYmFy");
}

// The definition: while some adjacent pair is a token, merge the leftmost pair of the lowest rank.
std::vector<TokenId> bpe_ref(const RankTable& ranks, std::string_view piece) {
  std::vector<std::string> parts;
  if (ranks.find(piece)) {
    parts = {std::string(piece)};
  } else {
    for (char c : piece) parts.emplace_back(1, c);
  }
  for (;;) {
    TokenId lowest = RankTable::kNone;
    size_t where = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto rank = ranks.find(parts[i] + parts[i + 1]);
      if (rank && *rank < lowest) lowest = *rank, where = i;
    }
    if (lowest == RankTable::kNone) break;
    parts[where] += parts[where + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(where) + 1);
  }
  std::vector<TokenId> ids;
  for (const std::string& part : parts) ids.push_back(*ranks.find(part));
  return ids;
}

// Words over few letters with ranks in random order, so that merges compete; lengths on both sides of the switch at 64.
TEST(bpe, equals_its_definition) {
  Rng rng(5);
  std::set<std::string> words;
  while (words.size() < 400) {
    std::string word;
    for (uint64_t n = 2 + rng.bits() % 6; word.size() < n;) word += static_cast<char>('a' + rng.bits() % 3);
    words.insert(word);
  }
  std::vector<std::string> shuffled(words.begin(), words.end());
  for (size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[rng.bits() % i]);
  std::string more;
  for (size_t i = 0; i < shuffled.size(); ++i)
    more += base64_encoded(shuffled[i]) + " " + std::to_string(256 + i) + "\n";
  const RankTable table = RankTable::parse(ranks_text(more), "f");

  for (size_t n = 1; n < 260; ++n) {
    std::string piece;
    while (piece.size() < n) piece += static_cast<char>('a' + rng.bits() % (n % 2 ? 3 : 4));
    std::vector<TokenId> ids;
    append_bpe(table, piece, ids);
    ASSERT_EQ(ids, bpe_ref(table, piece)) << piece;
  }
  for (size_t n : {1, 2, 63, 64, 65, 66, 127}) {  // one letter: every pair ties, the leftmost goes first
    std::vector<TokenId> ids;
    append_bpe(table, std::string(n, 'a'), ids);
    EXPECT_EQ(ids, bpe_ref(table, std::string(n, 'a'))) << n;
  }
}

}  // namespace
}  // namespace linnet::formats
