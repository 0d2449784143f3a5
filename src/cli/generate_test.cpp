// linnet generate: what stands on stdout, that it is reproducible, where it ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/cli_test_support.h"

namespace linnet::cli {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// Greedy, on the tiny checkpoint, without end tokens; `more` comes last.
std::vector<std::string> command(std::vector<std::string> more) {
  std::vector<std::string> args = {"generate", "--model", tiny_checkpoint(), "--temperature", "0", "--ignore-eos",
                                   "-t",       "1"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}
std::string text_of(std::vector<std::string> more, const RunOptions& options = {}) {
  const Outcome outcome = linnet(command(std::move(more)), options);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  return outcome.out;
}
json json_of(std::vector<std::string> more) {
  more.push_back("--json");
  return json::parse(text_of(std::move(more)));
}

// As tiny.json, but with a context that no test lives to see the end of.
std::string endless_checkpoint(const formats::ScratchFolder& folder) {
  json config = json::parse(formats::contents(source_path("examples/configs/tiny.json")));
  config["model_max_length"] = 1 << 30;
  const std::string file = folder.write("config.json", config.dump());
  EXPECT_EQ(linnet({"synth", "--config", file, "--out", folder / "endless"}).status, 0);
  return folder / "endless";
}

TEST(generate, prints_only_the_text_and_the_timing_elsewhere) {
  const Outcome outcome =
      linnet({"generate", "--model", tiny_checkpoint(), "-p", "hello", "-n", "8", "--temperature", "0"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1);
  EXPECT_THAT(outcome.err, HasSubstr("prompt 3 tokens"));
  const json result = json_of({"-p", "hello", "-n", "8"});
  EXPECT_EQ(text_of({"-p", "hello", "-n", "8"}), result["text"].get<std::string>());
  EXPECT_EQ(result["tokens"].size(), 8u);
  EXPECT_EQ(result["prompt_tokens"], 3);
  EXPECT_EQ(result["finish"], "token limit");
  const Outcome quiet = linnet(command({"-p", "hello", "-n", "8", "--quiet"}));
  EXPECT_EQ(quiet.err, "");
}

TEST(generate, model_of_the_environment_when_none_is_given) {
  const std::vector<std::string> plain = {"generate", "-p", "hello", "-n", "8", "--greedy", "-t", "1"};
  std::vector<std::string> named = plain;
  named.insert(named.end(), {"--model", tiny_checkpoint()});
  const Outcome expected = linnet(named);
  ASSERT_FALSE(expected.out.empty());
  EXPECT_EQ(linnet(plain, {.environment = "LINNET_MODEL=" + tiny_checkpoint()}).out, expected.out);
  EXPECT_EQ(linnet(named, {.environment = "LINNET_MODEL=/nowhere"}).out, expected.out);
  const Outcome nowhere = linnet(plain, {.environment = "LINNET_MODEL=/nowhere"});
  EXPECT_NE(nowhere.status, 0);
  EXPECT_THAT(nowhere.err, HasSubstr("/nowhere"));
}

TEST(generate, same_seed_same_text) {
  const auto drawn = [](const std::string& seed, const std::string& threads) {
    return linnet({"generate", "--model", tiny_checkpoint(), "-p", "a", "-n", "40", "--seed", seed, "-t", threads}).out;
  };
  EXPECT_EQ(drawn("7", "1"), drawn("7", "2"));
  EXPECT_NE(drawn("7", "1"), drawn("8", "1"));
  const Outcome fresh = linnet({"generate", "--model", tiny_checkpoint(), "-p", "a", "-n", "40", "-t", "1"});
  const size_t at = fresh.err.find("seed ");
  ASSERT_NE(at, std::string::npos) << fresh.err;
  EXPECT_EQ(drawn(fresh.err.substr(at + 5, fresh.err.size() - at - 6), "1"), fresh.out);  // the seed it told
}

TEST(generate, prompt_from_option_file_and_stdin) {
  const formats::ScratchFolder folder;
  const std::string prompt = "two\nlines ";
  const std::string expected = text_of({"-p", prompt, "-n", "6"});
  EXPECT_EQ(text_of({"--prompt-file", folder.write("prompt", prompt), "-n", "6"}), expected);
  EXPECT_EQ(text_of({"--prompt-file", "-", "-n", "6"}, {.input = prompt}), expected);
  EXPECT_EQ(text_of({"-n", "6"}, {.input = prompt}), expected);
  EXPECT_NE(text_of({"-n", "6"}, {.input = prompt + "\n"}), expected);  // every byte counts
}

TEST(generate, stops_before_a_stop_string) {
  const std::string whole = text_of({"-p", "hello", "-n", "40"});
  const std::string stop = whole.substr(20, 3);
  const json result = json_of({"-p", "hello", "-n", "40", "--stop", "never this", "--stop", stop});
  EXPECT_EQ(result["text"], whole.substr(0, whole.find(stop)));
  EXPECT_EQ(result["finish"], "stop string");
}

TEST(generate, sampling_options_reach_the_sampler) {
  const auto first = json_of({"-p", "hello", "-n", "1"})["tokens"][0].get<int>();
  const auto without = json_of({"-p", "hello", "-n", "1", "--logit-bias", std::to_string(first) + "=-inf"});
  EXPECT_NE(without["tokens"][0], first);
  EXPECT_EQ(json_of({"-p", "hello", "-n", "3", "--logit-bias", "65=100", "--logit-bias", "66=-3"})["text"], "AAA");
  EXPECT_EQ(json_of({"-p", "hello", "-n", "3", "--logit-bias", "65=100", "--logit-bias", "66=90", "--logit-bias",
                     "67=80", "--presence-penalty", "50"})["text"],
            "ABC");
  // top-k 1, and a top-p and a min-p that only the best token meets, are greedy at any temperature.
  const std::string greedy = text_of({"-p", "hello", "-n", "12"});
  for (const auto& option : {std::pair("--top-k", "1"), {"--top-p", "1e-6"}, {"--min-p", "1"}})
    EXPECT_EQ(linnet({"generate", "--model", tiny_checkpoint(), "-p", "hello", "-n", "12", "--ignore-eos", "-t", "1",
                      "--temperature", "1", option.first, option.second})
                  .out,
              greedy)
        << option.first;
}

TEST(generate, end_tokens_end_and_are_not_shown) {
  const json result = json::parse(linnet({"generate", "--model", tiny_checkpoint(), "-p", "a", "--greedy", "--json",
                                          "--logit-bias", "770=1000", "-t", "1"})
                                      .out);  // 770: <|im_end|>
  EXPECT_EQ(result["finish"], "end token");
  EXPECT_EQ(result["text"], "");
  EXPECT_EQ(text_of({"-p", "a", "-n", "2", "--logit-bias", "770=1000", "--show-specials"}), "<|im_end|><|im_end|>");
}

TEST(generate, control_tokens_are_text_unless_asked_for) {
  EXPECT_GT(json_of({"-p", "<|im_end|>", "-n", "0"})["prompt_tokens"], 1);
  EXPECT_EQ(json_of({"-p", "<|im_end|>", "-n", "0", "--parse-specials"})["prompt_tokens"], 1);
  EXPECT_EQ(json_of({"-p", "<|im_end|>", "-n", "0", "--parse-specials", "--bos"})["prompt_tokens"], 2);
}

TEST(generate, ends_where_the_context_is_full) {
  const json result = json_of({"-p", "abcd", "--context", "5"});  // "ab" "cd" and three more
  EXPECT_EQ(result["finish"], "context full");
  EXPECT_EQ(result["tokens"].size(), 4u);  // the last one need not be read
  EXPECT_EQ(text_of({"-p", "abcd", "-n", "0"}), "");
}

TEST(generate, interrupt_ends_with_what_has_been_printed) {
  const formats::ScratchFolder folder;
  const std::string dir = endless_checkpoint(folder);
  bool sent = false;
  RunOptions options;
  options.on_output = [&](pid_t child, const std::string&) {
    if (!sent) kill(child, SIGINT);
    sent = true;
  };
  const Outcome outcome =
      linnet({"generate", "--model", dir, "-p", "a", "--greedy", "--ignore-eos", "-t", "1"}, options);
  EXPECT_EQ(outcome.status, 130);
  EXPECT_THAT(outcome.err, HasSubstr("cancelled"));
  EXPECT_FALSE(outcome.out.empty());
  EXPECT_EQ(linnet({"generate", "--model", dir, "-p", "a", "--greedy", "--ignore-eos", "-t", "1", "-n", "3"})
                .out.substr(0, 2),
            outcome.out.substr(0, 2));
}

TEST(generate, a_closed_reader_ends_it_quietly) {
  const formats::ScratchFolder folder;
  RunOptions options;
  options.close_output_after = 10;
  const Outcome outcome = linnet(
      {"generate", "--model", endless_checkpoint(folder), "-p", "a", "--greedy", "--ignore-eos", "-t", "1"}, options);
  EXPECT_EQ(outcome.status, 141);
  EXPECT_EQ(outcome.err, "");
}

TEST(generate, a_full_stdout_is_an_error) {
  RunOptions options;
  options.output_to = "/dev/full";
  expect_refusal(linnet(command({"-p", "a", "-n", "4"}), options), 3, "stdout: cannot write: No space left on device");
}

TEST(generate, progress_shows_on_a_terminal_only_and_goes_away) {
  RunOptions terminal;
  terminal.err_is_terminal = true;
  const Outcome outcome =
      linnet(command({"-p", std::string(600, 'a'), "--tokens-per-pass", "64", "-n", "2"}), terminal);
  EXPECT_THAT(outcome.err, HasSubstr("loading " + tiny_checkpoint()));
  EXPECT_THAT(outcome.err, HasSubstr("prompt   0 %  0 / 300 tokens"));
  const size_t erased = outcome.err.rfind("\r\x1b[K");
  ASSERT_NE(erased, std::string::npos);
  EXPECT_TRUE(outcome.err.substr(erased + 4).starts_with("prompt 300 tokens ")) << outcome.err;  // the timing
  EXPECT_EQ(outcome.out, text_of({"-p", std::string(600, 'a'), "-n", "2"}));
}

TEST(generate, parity_options_change_what_is_computed) {
  const auto logits = [](const std::string& parity) {
    const formats::ScratchFolder folder;
    const std::string data = source_path("tests/data/tiny-fp32");
    std::vector<std::string> args = {"logits", "--model",      data, "--ids", data + "/expected.safetensors",
                                     "--out",  folder / "out", "-t", "1"};
    if (!parity.empty()) args.insert(args.end(), {"--parity", parity});
    EXPECT_EQ(linnet(args).status, 0);
    return formats::contents(folder / "out");
  };
  const std::string plain = logits("");
  for (const char* parity : {"biased-router", "latent-eps=1e-2", "double-round", "bf16-decay", "remote"})
    EXPECT_NE(logits(parity), plain) << parity;
  EXPECT_EQ(logits("biased-router,latent-eps=1e-6,double-round,bf16-decay"), logits("remote"));
  EXPECT_EQ(logits("latent-eps=1e-5"), plain);  // the value of the config
}

// Random models, so that nothing but the constraint makes the text JSON.
TEST(generate, json_by_schema_and_any_object) {
  const formats::ScratchFolder folder;
  const std::string schema = folder.write("schema.json", R"({"type": "object", "properties": {
      "name": {"type": "string", "maxLength": 8}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
      "required": ["name", "tags"], "additionalProperties": false})");
  const auto drawn = [](std::vector<std::string> more, int seed) {
    std::vector<std::string> args = {"generate", "--model", tiny_checkpoint(),   "-p", "x", "-t",
                                     "1",        "--seed",  std::to_string(seed)};
    args.insert(args.end(), more.begin(), more.end());
    return linnet(args);
  };
  for (int seed = 0; seed < 5; ++seed) {
    const Outcome outcome = drawn({"--json-schema", schema, "-n", "200"}, seed);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const json value = json::parse(outcome.out);
    EXPECT_TRUE(value.size() == 2 && value["name"].is_string() && value["tags"].is_array()) << outcome.out;
    EXPECT_TRUE(json::parse(drawn({"--json-object", "-n", "60"}, seed).out).is_object());
  }
  const Outcome closed = drawn({"--json-object", "-n", "12", "--json", "--logit-bias", "97=100"}, 1);  // "a" on and on
  EXPECT_EQ(json::parse(closed.out)["finish"], "closed by the limit");
  EXPECT_THAT(closed.err, HasSubstr("made the model close it early"));
  const Outcome cut = drawn({"--json-schema", schema, "-n", "5", "--json"}, 1);
  EXPECT_EQ(json::parse(cut.out)["finish"], "token limit");
  EXPECT_THAT(cut.err, HasSubstr("the JSON is not complete: token limit"));
  const Outcome whole = drawn({"--json-schema", folder.write("null", R"({"type": "null"})"), "--json", "-q"}, 1);
  EXPECT_EQ(json::parse(whole.out)["finish"], "complete");
  EXPECT_EQ(json::parse(whole.out)["text"], "null");
  EXPECT_EQ(whole.err, "");
  EXPECT_EQ(json::parse(drawn({"--json-object", "--ignore-eos", "-n", "50"}, 3).out).is_object(), true);
}

TEST(generate, schemas_that_cannot_be_guaranteed_are_refused) {
  const formats::ScratchFolder folder;
  const std::string pattern = folder.write("pattern", R"({"properties": {"a": {"pattern": "x"}}})");
  expect_refusal(linnet(command({"-p", "a", "--json-schema", pattern})), 2, "#/properties/a/pattern: ");
  expect_refusal(linnet(command({"-p", "a", "--json-schema", folder.write("no", "{")})), 3,
                 "schema: byte 1: expected JSON");
  expect_refusal(linnet(command({"-p", "a", "--json-schema", folder / "none"})), 3, "none");
  EXPECT_EQ(linnet(command({"-p", "a", "--json-schema", pattern, "--json-object"})).status, 2);
}

}  // namespace
}  // namespace linnet::cli
