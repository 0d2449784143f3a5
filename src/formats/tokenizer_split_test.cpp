// The cuts before byte-pair encoding: pieces against Python's regex module, slices against the rule spelled out.
#include "formats/tokenizer_split.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/utf8.h"

namespace linnet::formats {
namespace {

// The committed cases (made by tests/tools/pre_tokenizer_cases.py), or the file that LINNET_PIECES names.
TEST(pre_tokenizer, equals_the_published_pattern_in_python) {
  const char* other = std::getenv("LINNET_PIECES");
  std::ifstream in(other ? other : LINNET_SOURCE_DIR "/tests/data/tokenizer/pieces.jsonl");
  const PreTokenizer pre_tokenizer;
  int n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const nlohmann::json c = nlohmann::json::parse(line);
    const std::string text = c["text"];
    std::vector<size_t> pieces;
    pre_tokenizer.for_each_piece(text, [&](std::string_view piece) { pieces.push_back(piece.size()); });
    EXPECT_EQ(pieces, c["pieces"].get<std::vector<size_t>>()) << "line " << n + 1 << ": " << text.substr(0, 80);
  }
  EXPECT_GE(n, 300);
}

// The published class, character by character (tokenization_kimi.py: _split_whitespaces_or_nonwhitespaces on chunks of
// 400,000 characters), on text given as code points.
std::vector<size_t> slices_ref(const std::u32string& text) {
  std::vector<size_t> sizes;
  for (size_t chunk = 0; chunk < text.size(); chunk += 400'000) {
    const std::u32string part = text.substr(chunk, 400'000);
    bool is_space = is_python_space(part[0]);
    size_t length = 0, start = 0;
    for (size_t i = 0; i < part.size(); ++i) {
      if (is_space != is_python_space(part[i])) {
        length = 1, is_space = !is_space;
      } else if (++length > 25'000) {
        sizes.push_back(i - start);
        start = i, length = 1;
      }
    }
    sizes.push_back(part.size() - start);
  }
  return sizes;
}

// Sizes of the slices of a text in characters.
std::vector<size_t> slices_of(const std::u32string& text) {
  std::string bytes;
  for (char32_t c : text) append_utf8(c, bytes);
  std::vector<size_t> sizes;
  std::string joined;
  for_each_slice(bytes, [&](std::string_view slice) {
    joined += slice;
    sizes.push_back(
        static_cast<size_t>(std::count_if(slice.begin(), slice.end(), [](char c) { return (c & 0xc0) != 0x80; })));
  });
  EXPECT_EQ(joined, bytes);
  return sizes;
}

TEST(slices, are_cut_where_the_published_class_cuts) {
  const auto run = [](size_t n, char32_t c) { return std::u32string(n, c); };
  std::vector<std::u32string> texts = {U"", U"a"};
  for (size_t n : {24'999, 25'000, 25'001, 50'000, 50'001}) {
    texts.push_back(run(n, U'a'));
    texts.push_back(run(n, U' '));
    texts.push_back(run(n, U'中') + U" x");
    texts.push_back(run(1, U'x') + run(n, 0x1c) + U"x");  // a space for Python, not for the pattern
  }
  for (size_t n : {399'999, 400'000, 400'001, 800'001}) {
    std::u32string words;
    while (words.size() < n) words += words.size() % 7 == 6 ? U' ' : U'é';
    texts.push_back(words);
    texts.push_back(words.substr(0, n - 20'000) + run(20'000, U'a') + run(10'000, U'b') + U" end");  // both cuts nearby
    texts.push_back(words.substr(0, n - 30'000) + run(30'010, U'a') +
                    U" e");  // the cut of a run, then the other in the rest
  }
  for (const std::u32string& text : texts) {
    EXPECT_EQ(slices_of(text), text.empty() ? std::vector<size_t>{} : slices_ref(text)) << text.size() << " characters";
  }
}

TEST(slices, ill_formed_bytes_count_one_by_one) {
  std::vector<size_t> sizes;
  for_each_slice(std::string(25'001, '\x80') + " x", [&](std::string_view slice) { sizes.push_back(slice.size()); });
  EXPECT_THAT(sizes, testing::ElementsAre(25'000, 3));
}

// The longest runs that slices allow, of every kind the pattern repeats: no match limit, no stack limit.
TEST(pre_tokenizer, takes_runs_of_25000_characters) {
  const PreTokenizer pre_tokenizer;
  for (const char* unit : {"a", "A", "中", "़", "7", "-", " ", "\n", "\t", "é", "aA", "\xf0\x9f\x98\x80", "' "}) {
    std::string text;
    for (int i = 0; i < 25'000; ++i) text += unit;
    std::string joined;
    pre_tokenizer.for_each_piece(text, [&](std::string_view piece) { joined += piece; });
    EXPECT_EQ(joined, text) << unit;
  }
}

TEST(utf8, ill_formed_subparts_are_replaced_one_by_one) {
  // Unicode standard, section 3.9, tables 3-8 to 3-11, and the limits of each form.
  EXPECT_EQ(to_valid_utf8("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82"
                          "A"),
            "��������A");
  EXPECT_EQ(to_valid_utf8("\xed\xa0\x80\xed\xbf\xbf\xed\xaf"
                          "A"),
            "��������A");
  EXPECT_EQ(to_valid_utf8("\xf4\x91\x92\x93\xff"
                          "A\x80\xbf"
                          "B"),
            "�����A��B");
  EXPECT_EQ(to_valid_utf8("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf"
                          "A"),
            "����A");
  for (const char* good : {"\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                           "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    const Utf8Step step = utf8_step(good);
    std::string again;
    append_utf8(step.code, again);
    EXPECT_EQ(again, good);
    EXPECT_EQ(utf8_valid_prefix(good), std::string_view(good).size());
  }
}

}  // namespace
}  // namespace linnet::formats
