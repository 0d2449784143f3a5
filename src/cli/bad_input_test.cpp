// Everything that can be wrong from outside: one line that names it, the status of its kind, and nothing half-written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/cli_test_support.h"

namespace linnet::cli {
namespace {

namespace fs = std::filesystem;
using formats::ScratchFolder;
using nlohmann::json;
using testing::HasSubstr;

// A copy of the tiny checkpoint to break.
struct Broken {
  ScratchFolder folder;
  fs::path dir = folder / "model";
  fs::path weights = dir / "model.safetensors";
  Broken() { fs::copy(tiny_checkpoint(), dir); }

  void set_config(const std::string& key, const json& value) {
    json config = json::parse(formats::contents(dir / "config.json"));
    config[key] = value;
    std::ofstream(dir / "config.json") << config;
  }
  void overwrite(uint64_t offset, const std::string& bytes) {
    std::fstream file(weights, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file << bytes;
  }
  uint64_t header_bytes() {
    uint64_t n = 0;
    std::memcpy(&n, formats::contents(weights).data(), 8);
    return n;
  }
  std::string replaced(const std::string& from, const std::string& to) {  // in the header, of equal length
    const std::string bytes = formats::contents(weights);
    const size_t at = bytes.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    overwrite(at, to);
    return to;
  }
  Outcome generate(std::vector<std::string> more = {}) {
    std::vector<std::string> args = {"generate", "--model", dir, "-p", "a", "-n", "1", "--greedy", "-t", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return linnet(args);
  }
};

Outcome generate(std::vector<std::string> more, const RunOptions& options = {}) {
  std::vector<std::string> args = {"generate", "--model", tiny_checkpoint(), "-t", "1"};
  args.insert(args.end(), more.begin(), more.end());
  return linnet(args, options);
}

TEST(bad_input, usage) {
  const Outcome bare = linnet({});
  EXPECT_EQ(bare.status, 2);
  EXPECT_EQ(bare.out, "");
  EXPECT_THAT(bare.err, HasSubstr("generate"));
  expect_refusal(linnet({"generat"}), 2, "unknown command \"generat\"; did you mean generate?");
  expect_refusal(linnet({"frobnicate"}), 2, "expected one of generate, chat, serve, inspect");
  expect_refusal(linnet({"generate"}, {.environment = "LINNET_MODEL=" + tiny_checkpoint()}), 2,
                 "prompt: expected text, got none");
  expect_refusal(linnet({"generate", "--model"}), 2, "--model");
  expect_refusal(generate({"-p", "a", "--no-such-option"}), 2, "--no-such-option");
  expect_refusal(generate({"-p", "a", "-n", "many"}), 2, "many");
  expect_refusal(generate({"-p", "a", "--prompt-file", "-"}), 2, "--prompt-file");
  expect_refusal(linnet({"tokenize", "--model", tiny_checkpoint(), "--jsonl", "--decode"}), 2, "--decode");
  expect_refusal(generate({"-p", "a"}, {.environment = "LINNET_ISA=mmx"}), 2, "LINNET_ISA");
}

TEST(bad_input, values_out_of_range) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--temperature", "-1"}, "temperature: expected a number in [0, 100], got -1"},
      {{"--top-p", "0"}, "top_p"},
      {{"--top-p", "nan"}, "top_p"},
      {{"--top-k", "-1"}, "top_k"},
      {{"--min-p", "2"}, "min_p"},
      {{"--repetition-penalty", "0"}, "repetition_penalty"},
      {{"--logit-bias", "5"}, "expected ID=VALUE"},
      {{"--logit-bias", "5000=1"}, "logit_bias: expected a token id in [0, 1024)"},
      {{"--stop", ""}, "stop string: expected text"},
      {{"-n", "-2"}, "--max-tokens: expected -1 (no limit) or more"},
      {{"--threads", "-1"}, "-1"},
      {{"--context", "5000"}, "context: expected 1 to 4096 tokens"},
      {{"--context", "-1"}, "context: expected 1 to 4096 tokens"},
      {{"--tokens-per-pass", "-5"}, "tokens per pass"},
      {{"--parity", "sideways"}, "--parity: expected biased-router"},
      {{"--parity", "latent-eps=x"}, "latent-eps"},
      {{"--latent", "f16"}, "--latent: expected f32 or bf16"},
  };
  for (const auto& [options, text] : cases) {
    SCOPED_TRACE(options[0] + " " + options[1]);
    std::vector<std::string> args = {"-p", "a", "-n", "1"};
    args.insert(args.end(), options.begin(), options.end());
    expect_refusal(generate(args), 2, text);
  }
}

TEST(bad_input, prompts) {
  expect_refusal(generate({"-p", ""}), 2, "prompt: expected text, got none");
  expect_refusal(generate({}), 2, "prompt: expected text, got none");  // stdin is empty
  expect_refusal(generate({"-p", std::string(9000, 'a'), "-n", "1"}), 2, "make 4500, but the context is 4096");
  expect_refusal(generate({"--prompt-file", "/no/such/file"}), 3, "/no/such/file: cannot open: No such file");
  expect_refusal(generate({"--prompt-file", "/tmp"}), 3, "/tmp: cannot read: Is a directory");
}

TEST(bad_input, missing_files) {
  const ScratchFolder empty;
  expect_refusal(linnet({"generate", "--model", "/no/such/model", "-p", "a"}), 3, "/no/such/model");
  expect_refusal(linnet({"inspect", "--model", empty.path()}), 3, "config.json");
  expect_refusal(linnet({"tokenize", "--model", empty.path(), "-p", "a"}), 3, "tiktoken.model");
  for (const char* file : {"config.json", "model.safetensors", "tiktoken.model"}) {
    Broken broken;
    fs::remove(broken.dir / file);
    expect_refusal(broken.generate(), 3, file == std::string("model.safetensors") ? "model" : file);
  }
}

TEST(bad_input, safetensors) {
  {
    Broken broken;
    fs::resize_file(broken.weights, fs::file_size(broken.weights) - 100);
    expect_refusal(broken.generate(), 3, "model.safetensors");
  }
  {
    Broken broken;
    fs::resize_file(broken.weights, 5);
    expect_refusal(broken.generate(), 3, "model.safetensors");
  }
  {
    Broken broken;
    broken.overwrite(0, std::string("\xff\xff\xff\xff\xff\xff\xff\x00", 8));
    expect_refusal(broken.generate(), 3, "model.safetensors");
  }
  {
    Broken broken;  // another name for one tensor: one is missing
    broken.replaced("model.norm.weight", "model.worm.weight");
    expect_refusal(broken.generate(), 3, "model.norm.weight: expected [64], got no such tensor");
  }
  {
    Broken broken;
    broken.replaced(R"("dtype":"F32")", R"("dtype":"I32")");
    expect_refusal(broken.generate(), 3, "got i32");
  }
  {
    Broken broken;
    broken.replaced(R"("dtype":"BF16")", R"("dtype":"BF17")");
    expect_refusal(broken.generate(), 3, "BF17");
  }
}

TEST(bad_input, weights_that_are_no_numbers) {
  Broken broken;
  broken.overwrite(fs::file_size(broken.weights) - 2, "\xc0\x7f");  // the last bf16 of the file
  expect_refusal(broken.generate(), 3, "expected a finite number, got nan");
  expect_refusal(linnet({"inspect", "--model", broken.dir, "--check"}), 3, "got nan");
  EXPECT_EQ(linnet({"inspect", "--model", broken.dir}).status, 0);  // looks at no values
}

TEST(bad_input, config) {
  const std::tuple<const char*, json, const char*> cases[] = {
      {"hidden_size", 0, "config.json: hidden_size: expected"},
      {"hidden_size", int64_t{1} << 60, "got 1152921504606846976"},
      {"vocab_size", 2048, "model.embed_tokens.weight: expected [2048, 64], got [1024, 64]"},
      {"num_experts", 9, "gate.weight: expected [9, 64], got [8, 64]"},
      {"num_shared_experts", 0, "shared_experts.down_proj.weight: a tensor that this architecture does not have"},
      {"attn_res_block_size", 4, "attn_res_block_size: a field of Kimi K3"},
      {"sliding_window", 4, "sliding_window: an unknown field"},
      {"num_hidden_layers", 3, "full_attn_layers"},
  };
  for (const auto& [key, value, text] : cases) {
    SCOPED_TRACE(std::string(key) + " " + value.dump());
    Broken broken;
    broken.set_config(key, value);
    expect_refusal(broken.generate(), 3, text);
  }
  Broken broken;
  std::ofstream(broken.dir / "config.json") << "{";
  expect_refusal(broken.generate(), 3, "config.json");
  std::ofstream(broken.dir / "config.json") << "\xff";
  expect_refusal(broken.generate(), 3, "config.json");
}

TEST(bad_input, tokenizer_and_generation_config) {
  {
    Broken broken;
    std::string ranks = formats::contents(broken.dir / "tiktoken.model");
    ranks.erase(ranks.find("YWI= "), ranks.find('\n', ranks.find("YWI= ")) - ranks.find("YWI= ") + 1);  // "ab"
    std::ofstream(broken.dir / "tiktoken.model") << ranks;
    expect_refusal(broken.generate(), 3, "tiktoken.model");
  }
  Broken broken;
  std::ofstream(broken.dir / "generation_config.json") << R"({"temperature": "warm"})";
  expect_refusal(broken.generate(), 3, "generation_config.json: temperature");
}

TEST(bad_input, lines_of_json) {
  const auto tokenize = [](const std::string& input) {
    return linnet({"tokenize", "--model", tiny_checkpoint(), "--jsonl"}, {.input = input});
  };
  const Outcome second = tokenize("{\"text\": \"a\"}\n{\"txt\": \"a\"}\n");
  EXPECT_EQ(second.status, 3);
  EXPECT_EQ(second.out, "[97]\n");
  EXPECT_THAT(second.err, HasSubstr("linnet: stdin: line 2: text"));
  for (const char* line : {"", "[]", "{\"text\": 1}", "{\"text\": \"\xff\"}", "{\"text\": \"a\"", "nonsense"})
    expect_refusal(tokenize(std::string(line) + "\n"), 3, "stdin: line 1");
  expect_refusal(linnet({"tokenize", "--model", tiny_checkpoint(), "--decode", "-p", "1 2 x"}), 2,
                 "byte 4: expected a token id");
  expect_refusal(linnet({"tokenize", "--model", tiny_checkpoint(), "--decode", "-p", "99999"}), 2, "99999");
}

TEST(bad_input, ids_files) {
  const std::string model = source_path("tests/data/tiny-fp32");
  const ScratchFolder folder;
  const auto logits = [&](const std::string& header, const std::string& data) {
    const uint64_t length = header.size();
    const std::string file =
        folder.write("ids", std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
    return linnet({"logits", "--model", model, "--ids", file, "--out", folder / "out"});
  };
  const std::string four(4, '\x01');
  expect_refusal(logits(R"({"ids":{"dtype":"I32","shape":[1,1],"data_offsets":[0,4]}})", four), 3,
                 "input_ids: expected [B, T] i32 or i64, got no such tensor");
  expect_refusal(logits(R"({"input_ids":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}})", four), 3,
                 "got [1, 1] f32");
  expect_refusal(logits(R"({"input_ids":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})", four), 3, "got [1] i32");
  expect_refusal(logits(R"({"input_ids":{"dtype":"I32","shape":[1,1],"data_offsets":[0,4]}})", four), 3,
                 "[0, 0]: expected an id in [0, 320), got 16843009");
  expect_refusal(linnet({"logits", "--model", model, "--ids", "/no/such", "--out", folder / "out"}), 3, "/no/such");
  expect_refusal(linnet({"perplexity", "--model", model}), 2, "text files or --ids or --data");
  EXPECT_EQ(folder.n_files(), 1u);
}

TEST(bad_input, outputs_that_cannot_be_written) {
  const std::string model = source_path("tests/data/tiny-fp32"), ids = model + "/expected.safetensors";
  expect_refusal(linnet({"logits", "--model", model, "--ids", ids, "--out", "/no/such/folder/out"}), 3,
                 "/no/such/folder/out");
  expect_refusal(linnet({"logits", "--model", model, "--ids", ids, "--out", "/dev/null"}), 3, "/dev/null");
  const ScratchFolder folder;
  const RunOptions full{.file_limit = 20'000};  // as a disk with 20 kB left
  expect_refusal(linnet({"logits", "--model", model, "--ids", ids, "--out", folder / "out"}, full), 3, "out: cannot");
  const std::string config = source_path("examples/configs/tiny.json");
  expect_refusal(linnet({"synth", "--config", config, "--out", folder / "new"}, full), 3, "cannot");
  EXPECT_EQ(folder.n_files(), 0u);
  const Outcome chat = linnet({"chat", "--model", tiny_checkpoint(), "-n", "2", "-t", "1"},
                              {.input = "hello\n/save " + (folder / "state").string() + "\n", .file_limit = 2000});
  EXPECT_EQ(chat.status, 3);
  EXPECT_EQ(folder.n_files(), 0u);
}

TEST(bad_input, synth) {
  const ScratchFolder folder;
  const std::string config = source_path("examples/configs/tiny.json");
  folder.write("something", "x");
  expect_refusal(linnet({"synth", "--config", config, "--out", folder.path()}), 2, "expected a new or empty folder");
  expect_refusal(linnet({"synth", "--config", config, "--out", folder / "a", "--layers", "5"}), 2,
                 "--layers: expected 1 to 4, got 5");
  expect_refusal(linnet({"synth", "--config", config, "--out", folder / "a", "--dtype", "i8"}), 2, "--dtype");
  expect_refusal(linnet({"synth", "--config", "/no/such", "--out", folder / "a"}), 3, "/no/such");
  expect_refusal(linnet({"synth", "--config", config, "--out", folder / "something/a"}), 3, "something/a");
  EXPECT_EQ(folder.n_files(), 1u);
}

TEST(bad_input, more_state_than_memory) {
  Broken broken;
  broken.set_config("model_max_length", int64_t{1} << 39);
  expect_refusal(broken.generate({"--context", std::to_string(int64_t{1} << 38)}), 4,
                 "memory: a context of 274877906944 tokens needs 20.0 TiB of states");
  EXPECT_EQ(broken.generate().status, 0);  // without a wish, the context is what fits
}

TEST(bad_input, bench) {
  const auto bench = [](std::vector<std::string> more) {
    std::vector<std::string> args = {"bench", "--model", tiny_checkpoint(), "-t", "1"};
    args.insert(args.end(), more.begin(), more.end());
    return linnet(args);
  };
  expect_refusal(bench({"--depths", "0,4000"}), 2, "leave 2048 tokens of the context 4096, got 4000");
  expect_refusal(bench({"--prompt", "0"}), 2, "--prompt: expected 1 or more");
  expect_refusal(bench({"--repetitions", "0"}), 2, "--repetitions");
}

}  // namespace
}  // namespace linnet::cli
