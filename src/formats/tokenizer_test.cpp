// Tokenizer against outside answers (tests/data/tokenizer), and its own laws: round trip, special tokens, slices, streaming.
#include "formats/tokenizer.h"

#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/rng.h"
#include "formats/file_test_support.h"
#include "formats/utf8.h"

namespace linnet::formats {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;
using testing::IsEmpty;

const std::string kData = LINNET_SOURCE_DIR "/tests/data/tokenizer/";

const Tokenizer& cl100k() {
  static const Tokenizer tokenizer = Tokenizer::load_ranks_file(kData + "ranks.tiktoken");
  return tokenizer;
}

constexpr TokenId kFirst = 100'256;  // first special id there

TEST(tokenizer, equals_the_outside_answers) {
  std::ifstream in(kData + "cases.jsonl");
  int n = 0;
  for (std::string line; std::getline(in, line); ++n) {
    const nlohmann::json c = nlohmann::json::parse(line);
    const std::string text = c["text"];
    const std::vector<TokenId> ids = cl100k().encode(text);
    EXPECT_EQ(ids, c["ids"].get<std::vector<TokenId>>()) << "case " << n << ": " << text.substr(0, 60);
    EXPECT_EQ(cl100k().decode(ids), text);
  }
  EXPECT_EQ(n, 182);
}

// Bytes of all kinds: uniform, mostly ASCII, and well-formed text with single bytes spoilt.
std::string random_bytes(Rng& rng, size_t size) {
  const uint64_t kind = rng.bits() % 3;
  std::string out;
  while (out.size() < size) {
    if (kind == 0) out += static_cast<char>(rng.bits());
    if (kind == 1) out += static_cast<char>(rng.bits() % 16 == 0 ? rng.bits() : rng.bits() % 128);
    if (kind == 2)
      append_utf8(static_cast<char32_t>(rng.bits() % 2 ? rng.bits() % 0x800 : 0x4e00 + rng.bits() % 0x100), out);
  }
  if (kind == 2 && !out.empty()) out[rng.bits() % out.size()] = static_cast<char>(rng.bits());
  return out;
}

TEST(tokenizer, round_trip_of_any_bytes) {
  Rng rng(11);
  for (int trial = 0; trial < 3000; ++trial) {
    const std::string text = random_bytes(rng, rng.bits() % 200);
    for (const SpecialPolicy policy : {SpecialPolicy::as_text, SpecialPolicy::parse}) {
      ASSERT_EQ(cl100k().decode(cl100k().encode(text, policy)), text) << "trial " << trial;
    }
  }
}

TEST(tokenizer, ill_formed_bytes_are_single_byte_tokens_between_texts) {
  const auto byte = [](int b) { return *cl100k().id_of(std::string(1, static_cast<char>(b))); };
  // A lone lead, a surrogate, an overlong form, a sequence cut short by the end.
  EXPECT_THAT(cl100k().encode("a\xc3 b"), ElementsAre(byte('a'), byte(0xc3), *cl100k().id_of(" b")));
  EXPECT_THAT(cl100k().encode("\xed\xa0\x80"), ElementsAre(byte(0xed), byte(0xa0), byte(0x80)));
  EXPECT_THAT(cl100k().encode("\xc0\xaf"), ElementsAre(byte(0xc0), byte(0xaf)));
  EXPECT_THAT(cl100k().encode("\xe4\xbd"), ElementsAre(byte(0xe4), byte(0xbd)));
}

TEST(tokenizer, names_of_special_tokens_are_text_unless_parsed) {
  const std::string text = "[BOS]hi<|im_end|><|im_end|";
  const std::vector<TokenId> as_text = cl100k().encode(text);
  for (TokenId id : as_text) EXPECT_FALSE(cl100k().is_special(id));
  EXPECT_EQ(cl100k().decode(as_text), text);

  std::vector<TokenId> parsed = {kFirst, *cl100k().id_of("hi"), kFirst + 2};
  for (TokenId id : cl100k().encode("<|im_end|")) parsed.push_back(id);
  EXPECT_EQ(cl100k().encode(text, SpecialPolicy::parse), parsed);
  EXPECT_EQ(cl100k().decode(parsed), text);
  EXPECT_EQ(cl100k().decode(parsed, SpecialText::hidden), "hi<|im_end|");
}

TEST(tokenizer, names_count_only_inside_the_control_ranges) {
  const std::string text = "<|im_end|>x<|im_end|>";
  const auto encode = [&](std::vector<ByteRange> control) { return cl100k().encode(text, control); };
  const std::vector<TokenId> first_only = encode({{0, 10}});
  EXPECT_EQ(first_only[0], kFirst + 2);
  EXPECT_THAT(std::vector(first_only.begin() + 1, first_only.end()), ElementsAreArray(cl100k().encode("x<|im_end|>")));
  EXPECT_THAT(encode({{0, 10}, {11, 21}}), ElementsAre(kFirst + 2, *cl100k().id_of("x"), kFirst + 2));
  EXPECT_EQ(encode({{0, 9}, {12, 21}}), cl100k().encode(text));  // a name that leaves its range is text
  EXPECT_EQ(encode({{0, 5}, {5, 10}}), cl100k().encode(text));
}

TEST(tokenizer, ids_of_the_kimi_layout) {
  const Tokenizer& t = cl100k();
  EXPECT_EQ(t.vocab_size(), kFirst + 258);
  EXPECT_EQ(t.bos_id(), kFirst);
  EXPECT_EQ(t.eos_id(), kFirst + 2);
  EXPECT_THAT(t.stop_ids(), ElementsAre(kFirst + 2, kFirst + 1, kFirst + 9));
  EXPECT_EQ(t.special_id("<|im_middle|>"), kFirst + 17);
  EXPECT_EQ(t.special_id("<|tool_call_end|>"), kFirst + 15);
  EXPECT_EQ(t.special_id("[PAD]"), kFirst + 255);
  EXPECT_EQ(t.special_id("<|reserved_token_100261|>"), kFirst + 5);
  EXPECT_EQ(t.special_id("<|im"), std::nullopt);
  EXPECT_EQ(t.bytes_of(kFirst + 257), "<|reserved_token_100513|>");
  EXPECT_FALSE(t.is_special(kFirst - 1));
  EXPECT_FALSE(t.is_special(kFirst + 258));
}

TEST(tokenizer, ids_outside_the_vocabulary_are_refused_with_their_place) {
  const std::vector<TokenId> ids = {0, 1, 100'514};
  EXPECT_EQ(error_of<InvalidArgument>([&] { cl100k().decode(ids); }), "decode: ids[2]: expected 0..100513, got 100514");
  EXPECT_EQ(error_of<InvalidArgument>([&] { cl100k().bytes_of(-1); }), "tokenizer: id: expected 0..100513, got -1");
}

TEST(tokenizer, long_text_is_encoded_slice_by_slice) {
  const std::string text = std::string(25'000, 'a') + std::string(30'000, 'a') + " b " + std::string(26'000, ' ');
  std::vector<TokenId> expected;
  for (const std::string& slice :
       {std::string(25'000, 'a'), std::string(25'000, 'a'), std::string(5'000, 'a') + " b " + std::string(24'999, ' '),
        std::string(1'001, ' ')}) {
    for (TokenId id : cl100k().encode(slice)) expected.push_back(id);
  }
  EXPECT_EQ(cl100k().encode(text), expected);
  // A name across the cut stays text even when parsed.
  const std::string cut = std::string(24'995, 'a') + "<|im_end|>";
  EXPECT_EQ(cl100k().encode(cut, SpecialPolicy::parse), cl100k().encode(cut));
}

TEST(stream_decoder, gives_whole_characters_whatever_the_cuts) {
  // 1 to 4 bytes a character; then ill-formed stretches.
  const std::string text = "a\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80z \xe4\xbd|\xff\xf0\x9f\x98|\xc3";
  std::vector<TokenId> ids;
  for (char c : text) ids.push_back(*cl100k().id_of({&c, 1}));
  for (size_t first = 0; first <= ids.size(); ++first) {
    for (size_t second = first; second <= ids.size(); ++second) {
      StreamDecoder decoder(cl100k());
      std::string out;
      size_t at = 0;
      for (size_t end : {first, second, ids.size()}) {
        const std::string part = decoder.push(std::span(ids).subspan(at, end - at));
        EXPECT_EQ(utf8_valid_prefix(part), part.size());
        out += part, at = end;
      }
      EXPECT_EQ(out + decoder.flush(), to_valid_utf8(text)) << first << " " << second;
      EXPECT_EQ(decoder.flush(), "");
    }
  }
}

TEST(stream_decoder, holds_back_only_what_is_incomplete) {
  StreamDecoder decoder(cl100k());
  const auto byte = [](int b) { return *cl100k().id_of(std::string(1, static_cast<char>(b))); };
  EXPECT_EQ(decoder.push(byte('a')), "a");
  EXPECT_EQ(decoder.push(byte(0xf0)), "");
  EXPECT_EQ(decoder.push(byte(0x9f)), "");
  EXPECT_EQ(decoder.push(byte(0x98)), "");
  EXPECT_EQ(decoder.push(byte(0x80)), "\xf0\x9f\x98\x80");
  EXPECT_EQ(decoder.push(byte(0xe4)), "");
  EXPECT_EQ(decoder.push(byte('b')),
            "\xef\xbf\xbd"
            "b");
}

TEST(stream_decoder, special_tokens_are_hidden_or_shown) {
  const std::vector<TokenId> ids = {kFirst + 4, *cl100k().id_of("hi"), kFirst + 2};
  EXPECT_EQ(StreamDecoder(cl100k()).push(ids), "hi");
  EXPECT_EQ(StreamDecoder(cl100k(), SpecialText::shown).push(ids), "<|im_assistant|>hi<|im_end|>");
}

class tokenizer_folder : public testing::Test {  // a folder with a table of 300 tokens
 protected:
  tokenizer_folder() { write_ranks_file(folder_ / "tiktoken.model", letter_vocabulary(300)); }
  Tokenizer load() const { return Tokenizer::load(folder_.path()); }
  ScratchFolder folder_;
};

TEST_F(tokenizer_folder, ranks_alone_give_the_special_tokens_of_kimi) {
  const Tokenizer t = load();
  EXPECT_EQ(t.vocab_size(), 558);
  EXPECT_EQ(t.special_id("<|im_end|>"), 302);
  EXPECT_THAT(t.encode("abad<|im_end|>", SpecialPolicy::parse), ElementsAre(*t.id_of("ab"), *t.id_of("ad"), 302));
}

TEST_F(tokenizer_folder, config_names_special_tokens_and_their_roles) {
  folder_.write("tokenizer_config.json", R"({"added_tokens_decoder": {
      "300": {"content": "<s>", "special": true}, "301": {"content": "<s>longer"}, "305": {"content": "<think>", "special": false}},
      "bos_token": "<s>", "eos_token": {"content": "<s>longer"}, "pad_token": null})");
  folder_.write("special_tokens_map.json", R"({"bos_token": "<think>", "pad_token": {"content": "<think>"}})");
  const Tokenizer t = load();
  EXPECT_EQ(t.bos_id(), 300);  // tokenizer_config.json goes before the map
  EXPECT_EQ(t.eos_id(), 301);
  EXPECT_EQ(t.specials().pad, 305);
  EXPECT_EQ(t.specials().unk, std::nullopt);
  EXPECT_EQ(t.special_id("<|im_end|>"), std::nullopt);  // where ids are listed, only these have names of their own
  EXPECT_EQ(t.special_id("<|reserved_token_302|>"), 302);
  EXPECT_THAT(t.encode("<s><s>longer", SpecialPolicy::parse), ElementsAre(300, 301));  // the longest name
  EXPECT_EQ(t.decode(std::vector<TokenId>{300, 305}, SpecialText::hidden), "<think>");
}

// What each id stands for, and nothing else: two ranks exchanged or one name changed is another tokenizer.
TEST(tokenizer, hash_tells_tokenizers_apart) {
  std::vector<std::string> tokens = letter_vocabulary(300);
  const auto hash_of = [&] {
    return Tokenizer(RankTable::parse(ranks_file_text(tokens), "ranks"), SpecialTokens::kimi(300)).hash();
  };
  const uint64_t hash = hash_of();
  EXPECT_EQ(hash_of(), hash);
  std::swap(tokens[5], tokens[6]);
  EXPECT_NE(hash_of(), hash);
}

TEST_F(tokenizer_folder, bad_configs_are_named) {
  struct Case {
    const char* json;
    const char* message;
  };
  const Case cases[] = {
      {"{", "tokenizer_config.json: byte 1: expected JSON"},
      {"[]", "tokenizer_config.json: expected a JSON object, got an array of 0"},
      {R"({"added_tokens_decoder": [1]})", "added_tokens_decoder: expected object, got an array of 1"},
      {R"({"added_tokens_decoder": {"299": "a"}})",
       R"(added_tokens_decoder.299: expected an id in 300..557 (after the ranks), got "299")"},
      {R"({"added_tokens_decoder": {"558": "a"}})", R"(expected an id in 300..557 (after the ranks), got "558")"},
      {R"({"added_tokens_decoder": {"1152921504606846976": "a"}})", R"(got "1152921504606846976")"},
      {R"({"added_tokens_decoder": {"300x": "a"}})", R"(got "300x")"},
      {R"({"added_tokens_decoder": {"300": 7}})", "added_tokens_decoder.300: expected string, got 7"},
      {R"({"added_tokens_decoder": {"300": ""}})", R"(expected the text of a token, got "")"},
      {R"({"added_tokens_decoder": {"300": "a", "302": "a"}})", R"(expected distinct names, got "a" for 300 and 302)"},
      {R"({"added_tokens_decoder": {"300": "<|reserved_token_301|>"}})", "for 300 and 301"},
      {R"({"eos_token": "</s>"})", R"(eos_token: expected the name of a special token, got "</s>")"},
      {R"({"eos_token": 5})", "eos_token: expected string, got 5"},
  };
  for (const Case& c : cases) {
    folder_.write("tokenizer_config.json", c.json);
    const std::string error = error_of<FormatError>([&] { load(); });
    EXPECT_THAT(error, HasSubstr(c.message)) << c.json;
    EXPECT_THAT(error, HasSubstr("tokenizer_config.json: ")) << c.json;
  }
}

TEST_F(tokenizer_folder, a_missing_ranks_file_is_an_io_error) {
  std::filesystem::remove(folder_ / "tiktoken.model");
  EXPECT_THAT(error_of<IoError>([&] { load(); }), HasSubstr("tiktoken.model"));
}

}  // namespace
}  // namespace linnet::formats
