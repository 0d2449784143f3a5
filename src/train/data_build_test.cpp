// From text to a tokenizer and to shards, and back to the text.
#include "train/data_build.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/errors.h"
#include "core/rng.h"
#include "core/text.h"
#include "formats/file_test_support.h"
#include "train/token_shards.h"
#include "train/tokenizer_train.h"

namespace linnet::train {
namespace {

namespace fs = std::filesystem;
using formats::contents;
using formats::error_of;
using formats::ScratchFolder;
using formats::Tokenizer;
using testing::HasSubstr;

const auto kSilent = [](int64_t, int64_t) {};

// 500 documents of random words in a file with separators, 60 in lines of JSON.
class data_build : public testing::Test {
 protected:
  data_build() {
    Rng rng(7);
    std::string text, lines;
    const auto sentence = [&] {
      std::string s;
      for (uint64_t n = 1 + rng.bits() % 40; n > 0; --n)
        s += cat("word", rng.bits() % 50, n % 7 == 0 ? ", [EOS] " : " ");
      return s;
    };
    for (int i = 0; i < 500; ++i) texts_.push_back(cat("document ", i, "\n", sentence(), "\n"));
    for (const std::string& document : texts_) text += document + "%%\n";
    for (int i = 0; i < 60; ++i) {
      const std::string s = sentence();
      lines += cat("{\"t\":\"", s, "\"}\n");
      texts_.push_back(s);
    }
    config_.sources = {{.name = "a", .paths = {folder_.write("a.txt", text)}, .separator = "%%", .licence = "CC0"},
                       {.name = "b",
                        .kind = SourceKind::jsonl,
                        .paths = {folder_.write("b.jsonl", lines)},
                        .document_template = "{t}"}};
    config_.held_out = 0.2;
    write_tokenizer(folder_ / "tokenizer", train().tokens);
    tokenizer_ = std::make_unique<Tokenizer>(Tokenizer::load(folder_ / "tokenizer"));
  }

  TokenizerTrainResult train(TokenizerTrainOptions options = {.vocab_size = 560}) {
    return train_tokenizer(config_, options, [](TokenizerTrainPhase, int64_t, int64_t) {});
  }
  ShardManifest build(const std::string& name, int threads = 1, int64_t max_shard_tokens = 1 << 20) {
    ThreadPool pool(threads);
    return build_data(folder_ / name, config_, *tokenizer_, pool, {.max_shard_tokens = max_shard_tokens}, kSilent);
  }

  ScratchFolder folder_;
  DataConfig config_;
  std::vector<std::string> texts_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(data_build, the_tokenizer_has_the_size_asked_for_and_knows_its_words) {
  EXPECT_EQ(tokenizer_->ranks().size(), 560 - 256);
  EXPECT_TRUE(tokenizer_->id_of(" word").has_value() || tokenizer_->id_of("word").has_value());
  EXPECT_EQ(tokenizer_->bytes_of(*tokenizer_->eos_id()), "[EOS]");
  EXPECT_EQ(tokenizer_->bytes_of(*tokenizer_->bos_id()), "[BOS]");
  EXPECT_EQ(*tokenizer_->special_id("[PAD]"), 560 - 1);
  EXPECT_EQ(tokenizer_->decode(tokenizer_->encode("word7 caf\u00e9 \xff")), "word7 caf\u00e9 \xff");
}

TEST_F(data_build, training_a_tokenizer_is_deterministic_and_weights_count) {
  EXPECT_EQ(train().tokens, train().tokens);
  config_.sources.push_back({.name = "rare", .paths = {folder_.write("c.txt", "zyzzyva zyzzyva")}, .weight = 1});
  const auto has_word = [&](const TokenizerTrainResult& result) {
    return std::find(result.tokens.begin(), result.tokens.end(), "zyzzyva") != result.tokens.end();
  };
  EXPECT_FALSE(has_word(train({.vocab_size = 560})));
  config_.sources.back().weight = 1000;
  EXPECT_TRUE(has_word(train({.vocab_size = 560})));
}

TEST_F(data_build, a_text_too_small_gives_fewer_tokens) {
  config_.sources = {{.name = "s", .paths = {folder_.write("s.txt", "ab ab")}}};
  const TokenizerTrainResult result = train({.vocab_size = 100'000});
  EXPECT_EQ(result.tokens.size(), 257u);  // "ab": of " ab" there is one
  EXPECT_EQ(result.n_bytes, 5);
  EXPECT_THAT(error_of<InvalidArgument>([&] { train({.vocab_size = 511}); }), HasSubstr("expected 512 to"));
}

TEST_F(data_build, a_tokenizer_is_not_overwritten) {
  const std::string before = contents(folder_ / "tokenizer/tiktoken.model");
  EXPECT_THAT(error_of<InvalidArgument>([&] { write_tokenizer(folder_ / "tokenizer", {}); }),
              HasSubstr("tiktoken.model: exists already"));
  EXPECT_EQ(contents(folder_ / "tokenizer/tiktoken.model"), before);
}

TEST_F(data_build, every_document_comes_back_once_with_its_end_token) {
  build("d");
  const auto shards = TokenShards::open(folder_ / "d");
  shards.require_tokenizer(*tokenizer_);
  EXPECT_EQ(shards.identity().vocab_size, 560);
  std::vector<std::string> got;
  int64_t bytes = 0;
  for (const Split split : {Split::train, Split::held_out}) {
    for (int64_t d = 0; d < shards.n_documents(split); ++d) {
      std::vector<int32_t> ids(static_cast<size_t>(shards.document(split, d).size()));
      shards.document(split, d).copy(0, ids);
      EXPECT_EQ(ids.back(), tokenizer_->eos_id());
      EXPECT_EQ(std::count(ids.begin(), ids.end(), *tokenizer_->eos_id()), 1);  // those in the text are text
      ids.pop_back();
      got.push_back(tokenizer_->decode(ids));
    }
    bytes += shards.n_bytes(split);
  }
  EXPECT_NEAR(static_cast<double>(shards.n_documents(Split::held_out)), 0.2 * 560, 40);  // 4 standard deviations
  EXPECT_THAT(got, testing::UnorderedElementsAreArray(texts_));
  int64_t expected_bytes = 0;
  for (const std::string& text : texts_) expected_bytes += std::ssize(text);
  EXPECT_EQ(bytes, expected_bytes);
}

TEST_F(data_build, files_do_not_depend_on_threads_and_shards_end_where_told) {
  const ShardManifest one = build("one", 1, 1000), two = build("two", 3, 1000);
  EXPECT_GT(one.sources[0].splits[0].shards.size(), 3u);
  for (const auto& entry : fs::directory_iterator(folder_ / "one"))
    EXPECT_EQ(contents(entry.path()), contents(folder_ / "two" / entry.path().filename().string())) << entry.path();
  build("whole");
  const auto split = TokenShards::open(folder_ / "one"), whole = TokenShards::open(folder_ / "whole");
  ASSERT_EQ(split.n_documents(Split::train), whole.n_documents(Split::train));
  for (int64_t d = 0; d < split.n_documents(Split::train); ++d) {
    const DocumentTokens a = split.document(Split::train, d), b = whole.document(Split::train, d);
    ASSERT_EQ(a.size(), b.size());
    for (int64_t i = 0; i < a.size(); ++i) ASSERT_EQ(a[i], b[i]);
  }
}

// What is held out stays held out when other documents come.
TEST_F(data_build, the_split_follows_from_a_documents_bytes) {
  build("d");
  const auto before = TokenShards::open(folder_ / "d");
  folder_.write("a.txt", "another document\n%%\n" + contents(folder_ / "a.txt"));
  build("e");
  const auto after = TokenShards::open(folder_ / "e");
  const DocumentRange a = before.sources()[0].documents[1], b = after.sources()[0].documents[1];
  const int64_t shift = b.size() - a.size();
  EXPECT_THAT(shift, testing::AnyOf(0, 1));
  for (int64_t d = 0; d < a.size(); ++d)
    EXPECT_EQ(before.document(Split::held_out, d).size(), after.document(Split::held_out, d + shift).size());
}

TEST_F(data_build, begin_and_no_end_token) {
  config_.begin_token = "[BOS]";
  config_.end_token = "";
  config_.held_out = 0;
  build("d");
  const auto shards = TokenShards::open(folder_ / "d");
  EXPECT_EQ(shards.n_documents(Split::held_out), 0);
  EXPECT_EQ(shards.n_documents(Split::train), 560);
  const DocumentTokens first = shards.document(Split::train, 0);
  EXPECT_EQ(first[0], tokenizer_->bos_id());
  EXPECT_NE(first[first.size() - 1], tokenizer_->eos_id());
}

TEST_F(data_build, refusals_leave_no_manifest) {
  config_.end_token = "[END]";
  EXPECT_THAT(error_of<InvalidArgument>([&] { build("d"); }),
              HasSubstr("end_token: expected the name of a special token"));
  EXPECT_FALSE(fs::exists(folder_ / "d"));
  config_.end_token = "<|reserved_token_560|>";  // has no row in the model
  EXPECT_THAT(error_of<InvalidArgument>([&] { build("d"); }), HasSubstr("end_token"));
  config_.end_token = "[EOS]";
  folder_.write("b.jsonl", "{\"t\":1.5}\n");
  EXPECT_THAT(error_of<FormatError>([&] { build("d"); }), HasSubstr("b.jsonl: line 1: t: expected string"));
  EXPECT_FALSE(fs::exists(folder_ / "d" / kManifestFile));
  EXPECT_THAT(error_of<InvalidArgument>([&] { build("d"); }), HasSubstr("expected a new or empty folder"));
  EXPECT_THAT(error_of<InvalidArgument>([&] { build("a.txt"); }), HasSubstr("got a file"));
}

}  // namespace
}  // namespace linnet::train
