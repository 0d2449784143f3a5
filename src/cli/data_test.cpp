// tokenizer train, data build, and perplexity of what they made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/cli_test_support.h"
#include "core/rng.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string output(const std::vector<std::string>& args) {
  const Outcome outcome = linnet(args);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.out;
}

// Twenty documents of words in a.txt (separator ---), and five in b.jsonl.
class data_commands : public testing::Test {
 protected:
  data_commands() {
    Rng rng(3);
    std::string text, lines;
    for (int i = 0; i < 25; ++i) {
      std::string document;
      for (int w = 0; w < 60; ++w) document += cat("bird", rng.bits() % 30, w % 9 == 8 ? ".\n" : " ");
      document += "\n";
      if (i < 20) text += document + "---\n", documents_.push_back(document);
      else lines += json({{"t", document}, {"n", i}}).dump() + "\n";
    }
    folder_.write("a.txt", text);
    folder_.write("b.jsonl", lines);
  }
  std::string path(const std::string& name) const { return folder_ / name; }
  Outcome train(const std::string& out, std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"tokenizer", "train",         path("a.txt"),  "--separator",
                                     "---",       path("b.jsonl"), "--template",   "{n}\\n{t}",
                                     "-o",        path(out),       "--vocab-size", "530"};
    args.insert(args.end(), more.begin(), more.end());
    return linnet(args);
  }
  // Shards in the vocabulary of the tiny checkpoint.
  Outcome build(const std::string& out, std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"data",        "build",           path("a.txt"), "--separator", "---",
                                     "--tokenizer", tiny_checkpoint(), "-o",          path(out)};
    args.insert(args.end(), more.begin(), more.end());
    return linnet(args);
  }
  json perplexity(std::vector<std::string> more) {
    std::vector<std::string> args = {"perplexity", "--model", tiny_checkpoint(), "--json", "-t", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return json::parse(output(args));
  }

  const formats::ScratchFolder folder_;
  std::vector<std::string> documents_;
};

TEST_F(data_commands, a_trained_tokenizer_works) {
  const Outcome trained = train("tok");
  EXPECT_EQ(trained.status, 0) << trained.err;
  EXPECT_EQ(trained.out, "");
  EXPECT_THAT(trained.err, HasSubstr("274 tokens and 256 special tokens: vocab_size 530, from 25 documents"));
  EXPECT_EQ(train("again").status, 0);
  for (const char* file : {"tiktoken.model", "tokenizer_config.json"})
    EXPECT_EQ(formats::contents(folder_ / "tok" / file), formats::contents(folder_ / "again" / file));
  const std::string text = "bird7 bird8 \u6625\n", ids = output({"tokenize", "--model", path("tok"), "-p", text});
  EXPECT_EQ(output({"tokenize", "--model", path("tok"), "--decode", "-p", ids}), text);
  EXPECT_LT(json::parse(ids).size(), 13u);  // of 17 bytes
  expect_refusal(train("tok"), 2, "tiktoken.model: exists already");
}

TEST_F(data_commands, perplexity_of_shards_is_that_of_their_documents) {
  const Outcome built = build("d", {"--end-token", "none", "--held-out", "0", "--licence", "CC0"});
  EXPECT_EQ(built.status, 0) << built.err;
  EXPECT_THAT(built.out, HasSubstr("bytes/token"));
  EXPECT_EQ(json::parse(formats::contents(folder_ / "d/manifest.json"))["sources"][0]["licence"], "CC0");
  std::vector<std::string> files;
  for (size_t i = 0; i < documents_.size(); ++i) files.push_back(folder_.write(cat("document", i), documents_[i]));
  const json of_files = perplexity(files), of_data = perplexity({"--data", path("d"), "--split", "train"});
  for (const char* key : {"tokens", "loss", "bits_per_byte", "by_tokens_before"})
    EXPECT_EQ(of_data[key], of_files[key]) << key;
  EXPECT_EQ(of_data["by_source"][0]["source"], "a");
  EXPECT_EQ(of_data["by_source"][0]["loss"], of_data["loss"]);
  EXPECT_EQ(perplexity({"--data", path("d"), "--split", "train", "--documents", "1"})["tokens"],
            perplexity({files[0]})["tokens"]);

  // An end token is predicted, but is no text.
  EXPECT_EQ(build("e", {"--held-out", "1"}).status, 0);
  const json with_end = perplexity({"--data", path("e")});
  EXPECT_EQ(with_end["tokens"], of_files["tokens"].get<int>() + 20);
  EXPECT_EQ(with_end["by_source"][0]["bytes"], of_data["by_source"][0]["bytes"]);
  EXPECT_THAT(output({"perplexity", "--model", tiny_checkpoint(), "--data", path("d"), "--split", "train"}),
              HasSubstr("bits per byte"));
}

TEST_F(data_commands, bad_input) {
  EXPECT_EQ(build("d").status, 0);
  expect_refusal(build("d"), 2, "expected a new or empty folder");
  expect_refusal(build("x", {"--held-out", "2"}), 2, "--held-out: expected a share in [0, 1], got 2");
  expect_refusal(build("x", {"--end-token", "end"}), 2, "expected the name of a special token");
  expect_refusal(build("x", {path("b.jsonl")}), 2, "expected --template");
  expect_refusal(train("x", {"--pattern", "gpt2"}), 2, "--pattern: expected kimi");
  expect_refusal(train("x", {"--vocab-size", "300"}), 2, "expected 512 to");
  expect_refusal(train("x", {"--memory", "0"}), 2, "--memory: expected 1 to");
  expect_refusal(linnet({"tokenizer"}), 2, "required");
  expect_refusal(linnet({"data", "build", path("none"), "--tokenizer", tiny_checkpoint(), "-o", path("x")}), 3, "none");
  folder_.write("c.json", R"({"sources": [], "extra": 1})");
  expect_refusal(linnet({"data", "build", path("c.json"), "--tokenizer", tiny_checkpoint(), "-o", path("x")}), 3,
                 "c.json: extra: unknown key");
  expect_refusal(
      linnet({"data", "build", path("c.json"), "--separator", "x", "--tokenizer", tiny_checkpoint(), "-o", path("x")}),
      2, "leave out --template");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "x"));

  const std::vector<std::string> score = {"perplexity", "--model", tiny_checkpoint(), "--data", path("d")};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> args = score;
    args.insert(args.end(), more.begin(), more.end());
    return linnet(args);
  };
  expect_refusal(with({"--split", "test"}), 2, "expected train or held-out, got test");
  expect_refusal(with({path("a.txt")}), 2, "one of the three");
  expect_refusal(with({"--documents", "-1"}), 2, "--documents: expected at least 1");
  EXPECT_EQ(build("w", {"--held-out", "0"}).status, 0);
  expect_refusal(linnet({"perplexity", "--model", tiny_checkpoint(), "--data", path("w")}), 3,
                 "expected documents in the split held-out, got none");
}

// A full disk: an error, and no manifest.
TEST_F(data_commands, a_file_that_cannot_grow) {
  const Outcome outcome = linnet({"data", "build", path("a.txt"), "--separator", "---", "--tokenizer",
                                  tiny_checkpoint(), "-o", path("d"), "--held-out", "0"},
                                 {.file_limit = 4096});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_THAT(outcome.err, HasSubstr("a-train-00000.bin: cannot write"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "d/manifest.json"));
}

}  // namespace
}  // namespace linnet::cli
