// inspect, tokenize, perplexity, synth, logits, bench: their fixed forms.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/cli_test_support.h"
#include "formats/checkpoint.h"
#include "formats/tokenizer_ranks.h"
#include "support/compare.h"

namespace linnet::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::string kData = source_path("tests/data/tiny-fp32");
const std::string kExpected = kData + "/expected.safetensors";

std::string output(const std::vector<std::string>& args, const RunOptions& options = {}) {
  const Outcome outcome = linnet(args, options);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.out;
}

TEST(program, help_and_version) {
  EXPECT_TRUE(output({"--version"}).starts_with("linnet "));
  const std::string help = output({"--help"});
  for (const char* command : {"generate", "chat", "inspect", "tokenize", "tokenizer", "data", "perplexity", "bench",
                              "synth", "logits", "doctor"}) {
    EXPECT_THAT(help, HasSubstr(command));
    const std::string own = output({command, "--help"});
    EXPECT_THAT(own, HasSubstr(std::string("linnet ") + command));
    EXPECT_EQ(own.find("Excludes"), std::string::npos);
  }
}

TEST(logits, equal_the_outside_answer) {
  const formats::ScratchFolder folder;
  const auto expected = formats::Checkpoint::open(kExpected);
  for (const std::vector<std::string>& more :
       {std::vector<std::string>{}, {"--tokens-per-pass", "17"}, {"--threads", "2"}}) {
    std::vector<std::string> args = {
        "logits", "--model", kData, "--ids", kExpected, "--out", folder / "out.safetensors", "--hidden"};
    args.insert(args.end(), more.begin(), more.end());
    EXPECT_EQ(output(args), "");
    const auto got = formats::Checkpoint::open(folder / "out.safetensors");
    for (const std::string name : {"logits", "hidden.0", "hidden.1", "hidden.2", "hidden.3", "hidden.4", "hidden.5"})
      EXPECT_TRUE(test::close(*got.find(name), *expected.find(name), {.abs = 2e-4, .why = "f32 sums in another order"}))
          << name;
    EXPECT_EQ(got.names().size(), 7u);
  }
}

TEST(logits, accept_64_bit_ids) {
  const formats::ScratchFolder folder;
  const std::vector<int64_t> ids = {1, 2, 3, 4, 5, 6};
  const std::string header = R"({"input_ids":{"dtype":"I64","shape":[2,3],"data_offsets":[0,48]}})";
  const uint64_t length = header.size();
  const std::string file = folder.write("ids", std::string(reinterpret_cast<const char*>(&length), 8) + header +
                                                   std::string(reinterpret_cast<const char*>(ids.data()), 48));
  output({"logits", "--model", kData, "--ids", file, "--out", folder / "out"});
  EXPECT_EQ(text_of(*formats::Checkpoint::open(folder / "out").find("logits")), "[2, 3, 320] f32");
}

TEST(perplexity, is_what_the_logits_say) {
  const auto expected = formats::Checkpoint::open(kExpected);
  const ConstTensor ids = *expected.find("input_ids"), logits = *expected.find("logits");
  double sum = 0;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t t = 0; t + 1 < ids[1]; ++t) {
      const float* row = logits.row<float>(b) + t * logits[2];
      double total = 0;
      for (int64_t v = 0; v < logits[2]; ++v) total += std::exp(static_cast<double>(row[v]));
      sum += std::log(total) - static_cast<double>(row[ids.row<int32_t>(b)[t + 1]]);
    }
  const json result = json::parse(output({"perplexity", "--model", kData, "--ids", kExpected, "--json"}));
  EXPECT_EQ(result["tokens"], 298);
  EXPECT_NEAR(result["loss"], sum / 298, 4e-4);  // logits agree within 2e-4, and a loss is the difference of two
  EXPECT_NEAR(result["perplexity"], std::exp(result["loss"].get<double>()), 1e-6);
  EXPECT_TRUE(result["bits_per_byte"].is_null());
}

TEST(perplexity, of_files) {
  const formats::ScratchFolder folder;
  const std::string a = folder.write("a", std::string(500, 'a')), b = folder.write("b", "other text\n");
  const auto loss = [&](std::vector<std::string> more) {
    std::vector<std::string> args = {"perplexity", "--model", tiny_checkpoint(), "--json", "-t", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return json::parse(output(args));
  };
  const json both = loss({a, b}), first = loss({a}), second = loss({b});
  const double tokens = first["tokens"].get<double>() + second["tokens"].get<double>();
  EXPECT_EQ(both["tokens"], tokens);
  EXPECT_NEAR(both["loss"].get<double>() * tokens,
              first["loss"].get<double>() * first["tokens"].get<double>() +
                  second["loss"].get<double>() * second["tokens"].get<double>(),
              1e-6);
  // 250 tokens "aa", the first one not scored: 498 bytes
  EXPECT_NEAR(first["bits_per_byte"], first["loss"].get<double>() * 249 / std::log(2) / 498, 1e-9);
  EXPECT_EQ(loss({a, "--bos"})["tokens"], 250);
  EXPECT_EQ(loss({a, "--context", "100"})["tokens"], 247);  // the first of each of three windows is not scored
  EXPECT_EQ(loss({a, "--context", "100", "--stride", "50"})["tokens"], 249);
  EXPECT_THAT(output({"perplexity", "--model", tiny_checkpoint(), a}), HasSubstr("bits per byte"));
}

TEST(tokenize, jsonl_equals_the_outside_answers) {
  const formats::ScratchFolder folder;
  std::filesystem::copy(source_path("tests/data/tokenizer/ranks.tiktoken"), folder / "tiktoken.model");
  const std::string cases = formats::contents(source_path("tests/data/tokenizer/cases.jsonl"));
  std::istringstream answers(output({"tokenize", "--model", folder.path(), "--jsonl"}, {.input = cases}));
  std::istringstream questions(cases);
  int n = 0;
  for (std::string question, answer; std::getline(questions, question); ++n) {
    ASSERT_TRUE(std::getline(answers, answer));
    EXPECT_EQ(json::parse(answer), json::parse(question)["ids"]) << question;
  }
  EXPECT_EQ(n, 182);
  EXPECT_FALSE(answers.peek() != EOF);
}

TEST(tokenize, forms) {
  const std::string model = tiny_checkpoint(), text = "hello\xff <|im_end|>";
  const std::string ids = output({"tokenize", "--model", model, "-p", text});
  EXPECT_TRUE(json::parse(ids).is_array());
  EXPECT_EQ(output({"tokenize", "--model", model, "--decode", "-p", ids}), text);
  EXPECT_EQ(output({"tokenize", "--model", model}, {.input = text}), ids);
  EXPECT_EQ(output({"tokenize", "--model", model, "--count", "-p", text}),
            std::to_string(json::parse(ids).size()) + "\n");
  EXPECT_EQ(json::parse(output({"tokenize", "--model", model, "--parse-specials", "-p", "<|im_end|>"})), json({770}));
  EXPECT_EQ(output({"tokenize", "--model", model, "--show", "-p", "ab\n"}), "257\tab\n10\t\\x0a\n");
}

TEST(inspect, a_checkpoint_and_a_bare_config_agree) {
  const json with = json::parse(output({"inspect", "--model", tiny_checkpoint(), "--json", "--tensors", "--check"}));
  const json bare = json::parse(output({"inspect", "--model", source_path("examples/configs/tiny.json"), "--json"}));
  EXPECT_EQ(with["parameters"], bare["parameters"]);
  EXPECT_EQ(with["memory"], bare["memory"]);
  EXPECT_EQ(with["parameters"]["all"]["total"], 411508);
  EXPECT_EQ(with["tensors"].size(), 151u);
  EXPECT_EQ(with["tensors"][0]["file"], "model.safetensors");
  const json half = json::parse(output({"inspect", "--model", tiny_checkpoint(), "--json", "--context", "2048"}));
  EXPECT_EQ(with["memory"]["state_bytes"].get<int>() - half["memory"]["state_bytes"].get<int>(), 2048 * 80);
}

TEST(inspect, the_published_model) {
  const std::string file = source_path("examples/configs/kimi-linear-48b.json");
  const json facts = json::parse(output({"inspect", "--model", file, "--json"}));
  EXPECT_EQ(facts["parameters"]["all"]["total"], 49122681728);
  EXPECT_EQ(facts["memory"]["state_bytes_per_token"], 8064);
  // 2.729e9 without embedding and head, as derived in the literature's counts
  const auto active = facts["parameters"]["all"]["active"].get<int64_t>();
  EXPECT_NEAR(static_cast<double>(active - 377487360 - 2304), 2.729e9, 1e6);
  const std::string text = output({"inspect", "--model", file, "--context", "131072"});
  for (const char* part :
       {"49,122,681,728", "7 layers (4, 8, 12, 16, 20, 24, 27)", "8 of 256 experts", "context of 131,072"})
    EXPECT_THAT(text, HasSubstr(part));
}

TEST(synth, the_model_in_the_tree_is_what_its_readme_says) {
  const formats::ScratchFolder folder;
  output({"synth", "--config", source_path("examples/configs/tiny.json"), "--seed", "0", "--out", folder / "again"});
  for (const char* file : {"config.json", "generation_config.json", "model.safetensors", "tiktoken.model"})
    EXPECT_EQ(formats::contents(folder / "again" / file),
              formats::contents(source_path("models/tiny-random") + "/" + file))
        << file;
}

TEST(synth, shards_load_and_generate_the_same) {
  const formats::ScratchFolder folder;
  output({"synth", "--config", source_path("examples/configs/tiny.json"), "--out", folder / "sharded",
          "--max-shard-bytes", "200000"});
  EXPECT_TRUE(std::filesystem::exists(folder / "sharded/model.safetensors.index.json"));
  const auto generated = [](const std::string& dir) {
    return output({"generate", "--model", dir, "-p", "hello", "-n", "20", "--greedy", "--ignore-eos", "-t", "1"});
  };
  EXPECT_EQ(generated(folder / "sharded"), generated(tiny_checkpoint()));
  output({"synth", "--config", source_path("examples/configs/tiny.json"), "--out", folder / "short", "--layers", "2",
          "--dtype", "f32"});
  const json facts = json::parse(output({"inspect", "--model", folder / "short", "--json"}));
  EXPECT_EQ(facts["layers"], 2);
  EXPECT_EQ(facts["mla_layers"], json::array());
  EXPECT_EQ(generated(folder / "short").empty(), false);
}

TEST(bench, json_has_the_figures) {
  const json result = json::parse(output({"bench", "--model", tiny_checkpoint(), "--json", "--depths", "0,128",
                                          "--prompt", "64", "--decode", "2", "--repetitions", "1", "-t", "1"}));
  EXPECT_GT(result["floors"]["read_bytes_per_second"], 0);
  ASSERT_EQ(result["prefill"].size(), 2u);
  EXPECT_EQ(result["prefill"][1]["depth"], 128);
  EXPECT_GT(result["decode"][0]["weights_ratio"], 0);
  EXPECT_LE(result["decode"][0]["weights_ratio"], result["decode"][0]["ratio"]);
  EXPECT_EQ(result["kda_core"][0]["tokens"], 128);
  EXPECT_GT(result["kda_core"][0]["share"], 0);
  EXPECT_EQ(result["kda_core_alone"]["points"][1]["tokens"], 65536);
  EXPECT_GT(result["kda_core_alone"]["growth"], 0.05);  // of a machine that does other things, too
  EXPECT_LT(result["kda_core_alone"]["growth"], 20);
  EXPECT_GT(result["first_token_seconds"], 0);
  EXPECT_GT(result["memory"]["peak_bytes"], 0);
  // Without a deeper sequence to read first, the parts are those of the prompt.
  const std::string table = output({"bench", "--model", tiny_checkpoint(), "--depths", "0", "--prompt", "64",
                                    "--decode", "1", "--repetitions", "1", "-t", "1"});
  for (const char* part : {"where the time of 64 tokens goes", "\nkda core  "}) EXPECT_THAT(table, HasSubstr(part));
}

}  // namespace
}  // namespace linnet::cli
