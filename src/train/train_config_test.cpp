// Training configurations: what is read, refused, documented, written back and compared.
#include "train/train_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/errors.h"
#include "formats/file_test_support.h"

namespace linnet::train {
namespace {

using formats::error_of;
using formats::ScratchFolder;
using nlohmann::json;
using testing::Each;
using testing::HasSubstr;
using testing::StartsWith;

model::ModelConfig small_model() {
  model::ModelConfig c;
  c.vocab_size = 512, c.hidden = 32, c.context = 4096, c.dense_width = 64;
  c.mixers = {"kda", "mla"};
  c.ffns = {model::FfnKind::dense, model::FfnKind::dense};
  c.kda = {.heads = 2, .head_dim = 16};
  c.mla = {.heads = 2, .latent_rank = 16, .key_dim = 8, .shared_key_dim = 4, .value_dim = 8};
  return c;
}

// The least that a configuration must say.
json smallest() {
  return {{"model", json::parse(model::config_json(small_model()))},
          {"data", {{"folder", "corpus"}}},
          {"schedule", {{"steps", 1000}}},
          {"checkpoint", {{"folder", "run"}}}};
}

TrainConfig parse(const json& document, std::vector<std::string> overrides = {}) {
  return parse_train_config(document.dump(), "t.json", overrides);
}

std::string refusal(const json& document, std::vector<std::string> overrides = {}) {
  return error_of<FormatError>([&] { parse(document, overrides); });
}

std::string refused_override(const std::string& text) {
  return error_of<InvalidArgument>([&] { parse(smallest(), {text}); });
}

TEST(train_config, the_smallest_file_gets_the_documented_defaults) {
  const TrainConfig c = parse(smallest());
  ASSERT_EQ(c.runs.size(), 1u);
  EXPECT_EQ(c.runs[0].name, "");
  EXPECT_EQ(c.runs[0].model.config.hidden, 32);
  EXPECT_EQ(c.data.folder, "corpus");
  EXPECT_EQ(c.data.micro_batch_tokens, c.data.batch_tokens);
  EXPECT_EQ(c.micro_batches(), 1);
  EXPECT_EQ(c.schedule.steps, 1000);
  EXPECT_EQ(c.schedule.warmup_steps, 20);  // 2 %
  EXPECT_EQ(c.schedule.decay_steps, 200);  // a fifth
  // The rest against the documentation: the canonical form of these defaults.
  const json canonical = json::parse(canonical_json(c));
  for (const FieldDescription& f : describe_train_config()) {
    if (!json::accept(f.default_value)) continue;  // "required", "2 % of steps"
    json::json_pointer at("");
    std::istringstream keys(f.name);
    for (std::string key; std::getline(keys, key, '.');) at.push_back(key);
    if (f.name == "schedule.decay_fraction") continue;  // written as decay_steps
    EXPECT_EQ(canonical.at(at), json::parse(f.default_value)) << f.name;
  }
}

TEST(train_config, every_field_is_documented_once_in_one_line) {
  std::map<std::string, int> times;
  for (const FieldDescription& f : describe_train_config()) {
    ++times[f.name];
    EXPECT_GT(f.meaning.size(), 8u) << f.name;
    EXPECT_EQ(f.meaning.find('\n'), f.meaning.npos) << f.name;
    EXPECT_FALSE(f.default_value.empty()) << f.name;
    for (const std::string& choice : f.choices) EXPECT_THAT(f.meaning, HasSubstr(choice)) << f.name;
  }
  EXPECT_THAT(times, Each(testing::Pair(testing::_, 1)));
  EXPECT_EQ(times.size(), 47u);
}

TEST(train_config, the_help_fits_a_page_and_names_every_field) {
  const std::string help = "\n" + train_config_help(100);
  for (const FieldDescription& f : describe_train_config()) EXPECT_THAT(help, HasSubstr("\n" + f.name)) << f.name;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

// The lines between <!-- fields --> and <!-- end of fields -->, and the first block of JSON.
TEST(train_config, the_document_has_this_table_and_an_example_that_is_read) {
  const std::string text = formats::contents(LINNET_SOURCE_DIR "/docs/training.md");
  const auto between = [&](std::string_view begin, std::string_view end) {
    const size_t from = text.find(begin);
    EXPECT_NE(from, text.npos) << begin;
    return text.substr(from + begin.size(), text.find(end, from + begin.size()) - from - begin.size());
  };
  EXPECT_EQ(between("<!-- fields -->\n", "<!-- end of fields -->"), train_config_markdown());
  const TrainConfig c = parse_train_config(between("```json\n", "```"), "docs/training.md");
  EXPECT_EQ(c.runs[0].model.config.mixers.size(), 4u);
}

// Each field on its own: a value other than the default arrives in the canonical form under the same name.
TEST(train_config, every_field_is_read_and_written_back) {
  const std::vector<std::string> values = {"seed=7",
                                           "precision=f32",
                                           "data.folder=other",
                                           "data.sequence_tokens=512",
                                           "data.batch_tokens=32768",
                                           "data.micro_batch_tokens=2048",
                                           "data.packing=stream",
                                           "data.loss_after=<|im_middle|>",
                                           "data.shuffle_seed=3",
                                           "state.policy=noise",
                                           "state.noise_std=0.5",
                                           "state.probability=0.25",
                                           "optimizer.muon.lr=0.01",
                                           "optimizer.muon.momentum=0.5",
                                           "optimizer.muon.weight_decay=0.2",
                                           "optimizer.muon.nesterov=false",
                                           "optimizer.adamw.lr=0.003",
                                           "optimizer.adamw.beta1=0.8",
                                           "optimizer.adamw.beta2=0.99",
                                           "optimizer.adamw.eps=1e-6",
                                           "optimizer.adamw.weight_decay=0",
                                           "optimizer.clip_norm=0",
                                           "optimizer.qk_clip=30",
                                           "optimizer.router_bias_rate=0.01",
                                           "optimizer.z_loss=0.0001",
                                           "schedule.kind=cosine",
                                           "schedule.steps=500",
                                           "schedule.warmup_steps=11",
                                           "schedule.final_ratio=0.1",
                                           "checkpoint.folder=elsewhere",
                                           "checkpoint.every_steps=10",
                                           "checkpoint.every_minutes=2.5",
                                           "checkpoint.keep=5",
                                           "evaluation.every_steps=0",
                                           "evaluation.tokens=1000",
                                           "evaluation.split=train",
                                           "recompute=layer",
                                           "threads=2",
                                           "spike_factor=0",
                                           "stop_step=99"};
  for (const std::string& text : values) {
    const std::string name = text.substr(0, text.find('='));
    const json before = json::parse(canonical_json(parse(smallest())));
    const json after = json::parse(canonical_json(parse(smallest(), {text})));
    const json patch = json::diff(before, after);
    ASSERT_FALSE(patch.empty()) << text;
    std::string path = "/" + name;
    std::replace(path.begin(), path.end(), '.', '/');
    bool found = false;
    for (const json& change : patch) found |= change.at("path") == path;
    EXPECT_TRUE(found) << text << ": " << patch.dump();
  }
}

TEST(train_config, the_canonical_form_reads_as_itself) {
  for (const char* text : {"schedule.kind=cosine", "state.policy=passed", "schedule.decay_steps=7"}) {
    const std::string once = canonical_json(parse(smallest(), {text}));
    EXPECT_EQ(canonical_json(parse_train_config(once, "c.json")), once) << text;
    EXPECT_EQ(first_difference(once, canonical_json(parse(smallest(), {text}))), "");
    EXPECT_EQ(parse_train_config(once, "c.json").schedule.decay_steps, parse(smallest(), {text}).schedule.decay_steps);
  }
}

TEST(train_config, refuses_unknown_fields_by_name) {
  EXPECT_EQ(refusal(smallest(), {"optimizer.muon.rate=1"}), "t.json: optimizer.muon.rate: unknown key");
  EXPECT_EQ(refusal(smallest(), {"dat.folder=1"}), "t.json: dat: unknown key");
  EXPECT_THAT(refusal(smallest(), {"model.linear_attn_config.bias=true"}),
              StartsWith("t.json: model.linear_attn_config.bias: an unknown field"));
  EXPECT_THAT(error_of<FormatError>([&] { parse_train_config(R"({"seed": 1, "seed": 2})", "t.json"); }),
              HasSubstr("expected one such key"));
}

TEST(train_config, refuses_values_by_place) {
  json none = smallest();
  none.erase("data");
  EXPECT_EQ(refusal(none), "t.json: data.folder: expected string, got nothing");
  none["data"] = "corpus";
  EXPECT_EQ(refusal(none), "t.json: data: expected object, got \"corpus\"");
  EXPECT_EQ(refusal(smallest(), {"optimizer.muon.lr=-1"}),
            "t.json: optimizer.muon.lr: expected number in [0, 10], got -1");
  EXPECT_EQ(refusal(smallest(), {"optimizer.muon.lr=fast"}),
            "t.json: optimizer.muon.lr: expected number in [0, 10], got \"fast\"");
  EXPECT_EQ(refusal(smallest(), {"state.policy=warm"}),
            "t.json: state.policy: expected \"zero\", \"passed\", \"passed_with_gradient\", \"noise\", got \"warm\"");
  EXPECT_EQ(refusal(smallest(), {"checkpoint.folder="}), "t.json: checkpoint.folder: expected path, got \"\"");
  EXPECT_EQ(refusal(smallest(), {"model=null"}), "t.json: model: expected object, got null");
  EXPECT_EQ(refusal(smallest(), {"optimizer.adamw.beta2=1"}),
            "t.json: optimizer.adamw.beta2: expected number in [0, 1), got 1");
  EXPECT_EQ(refusal(smallest(), {"spike_factor=0.5"}), "t.json: spike_factor: expected 0 or a number above 1, got 0.5");
}

TEST(train_config, batches_are_whole) {
  EXPECT_EQ(refusal(smallest(), {"data.batch_tokens=3000"}),
            "t.json: data.batch_tokens: expected a multiple of data.sequence_tokens 1024, got 3000");
  EXPECT_EQ(refusal(smallest(), {"data.micro_batch_tokens=3000"}),
            "t.json: data.micro_batch_tokens: expected a multiple of data.sequence_tokens 1024, got 3000");
  EXPECT_EQ(refusal(smallest(), {"data.micro_batch_tokens=3072"}),
            "t.json: data.batch_tokens: expected a multiple of data.micro_batch_tokens 3072, got 16384");
  EXPECT_EQ(refusal(smallest(), {"data.sequence_tokens=8192", "data.batch_tokens=8192"}),
            "t.json: data.sequence_tokens: expected at most model_max_length 4096, got 8192");
  EXPECT_EQ(parse(smallest(), {"data.micro_batch_tokens=4096"}).micro_batches(), 4);
}

TEST(train_config, the_schedule_follows_from_steps_or_tokens) {
  EXPECT_EQ(refusal(smallest(), {"schedule.tokens=5"}),
            "t.json: schedule.steps: expected one of steps and tokens, got both");
  EXPECT_EQ(refusal(smallest(), {"schedule.steps=null"}),
            "t.json: schedule.steps: expected one of steps and tokens, got none");
  const auto steps_of = [](const std::string& tokens) {
    return parse(smallest(), {"schedule.steps=null", "schedule.tokens=" + tokens}).schedule.steps;
  };
  EXPECT_EQ(steps_of("1"), 1);
  EXPECT_EQ(steps_of("163840"), 10);
  EXPECT_EQ(steps_of("163841"), 11);
  EXPECT_EQ(parse(smallest(), {"schedule.decay_fraction=0.5"}).schedule.decay_steps, 500);
  EXPECT_EQ(parse(smallest(), {"schedule.decay_steps=7"}).schedule.decay_steps, 7);
  EXPECT_EQ(refusal(smallest(), {"schedule.decay_steps=7", "schedule.decay_fraction=0.5"}),
            "t.json: schedule.decay_steps: expected one of decay_steps and decay_fraction, got both");
  EXPECT_EQ(refusal(smallest(), {"schedule.warmup_steps=1000"}),
            "t.json: schedule.warmup_steps: expected fewer than the 1000 steps of the run, got 1000");
  EXPECT_EQ(refusal(smallest(), {"schedule.warmup_steps=300", "schedule.decay_steps=701"}),
            "t.json: schedule.decay_steps: expected at most the 700 steps after the warm-up, got 701");
  EXPECT_EQ(refusal(smallest(), {"stop_step=1001"}),
            "t.json: stop_step: expected at most the 1000 steps of the run, got 1001");
}

TEST(train_config, the_model_may_come_from_a_file_or_a_checkpoint) {
  const ScratchFolder folder;
  folder.write("config.json", model::config_json(small_model()));
  json c = smallest();
  c["model"] = {{"config", (folder / "config.json").string()}};
  EXPECT_EQ(parse(c).runs[0].model.config.hidden, 32);
  EXPECT_TRUE(parse(c).runs[0].model.start.empty());
  EXPECT_EQ(canonical_json(parse(c)), canonical_json(parse(smallest())));  // what the file said, not where it was
  c["model"] = {{"from", folder.path().string()}};
  EXPECT_EQ(parse(c).runs[0].model.start, folder.path());
  EXPECT_EQ(parse(c).runs[0].model.config.hidden, 32);
  EXPECT_EQ(json::parse(canonical_json(parse(c))).at("model"), c["model"]);
  c["model"]["config"] = "x";
  EXPECT_EQ(refusal(c), "t.json: model.config: unknown key");
}

TEST(train_config, several_runs_share_the_rest) {
  json c = smallest();
  const json a_model = c["model"];
  c["runs"] = {{{"name", "a"}, {"model", a_model}}, {{"name", "b"}, {"model", a_model}}};
  EXPECT_THAT(refusal(c), HasSubstr("t.json: model: expected either model or runs, not both"));
  c.erase("model");
  EXPECT_EQ(parse(c).runs.size(), 2u);
  EXPECT_EQ(parse(c).runs[1].name, "b");
  EXPECT_EQ(canonical_json(parse_train_config(canonical_json(parse(c)), "c")), canonical_json(parse(c)));
  c["runs"][1]["name"] = "a";
  EXPECT_EQ(refusal(c), "t.json: runs[1].name: expected a name that no other run has, got \"a\"");
  for (const char* name : {"", "a/b", "..", "step-1", "a b"}) {
    c["runs"][1]["name"] = name;
    EXPECT_THAT(refusal(c), StartsWith("t.json: runs[1].name: expected 1 to 64 of")) << name;
  }
  c["runs"] = json::array();
  EXPECT_EQ(refusal(c), "t.json: runs: expected at least one run, got an array of 0");
}

TEST(train_config, overrides_make_what_is_not_there) {
  json c = smallest();
  c["schedule"].erase("steps");
  EXPECT_EQ(parse(c, {"schedule.steps=20", "optimizer.adamw.lr=1e-4"}).optimizer.adamw.lr, 1e-4);
  EXPECT_EQ(parse(c, {"schedule.steps=20", "schedule.steps=30"}).schedule.steps, 30);  // the last one counts
  EXPECT_EQ(parse(c, {"schedule.steps=20", "checkpoint.folder=a=b"}).checkpoint.folder, "a=b");
}

TEST(train_config, malformed_overrides_name_the_key) {
  EXPECT_EQ(refused_override("seed"), "--set seed: expected KEY.PATH=VALUE");
  EXPECT_EQ(refused_override("=1"), "--set =1: expected KEY.PATH=VALUE");
  EXPECT_EQ(refused_override("data..folder=x"), "--set data..folder: expected a key between the dots");
  EXPECT_EQ(refused_override("data.folder.name=x"),
            "--set data.folder.name: data.folder: expected an object to set a key of, got a string");
}

TEST(train_config, names_the_first_difference) {
  const auto difference = [](std::vector<std::string> before, std::vector<std::string> now) {
    return first_difference(canonical_json(parse(smallest(), before)), canonical_json(parse(smallest(), now)));
  };
  EXPECT_EQ(difference({}, {}), "");
  EXPECT_EQ(difference({"threads=1", "checkpoint.folder=a"},
                       {"threads=2", "checkpoint.folder=b", "stop_step=5", "evaluation.tokens=9", "recompute=layer"}),
            "");
  EXPECT_EQ(difference({"optimizer.muon.lr=0.002"}, {"optimizer.muon.lr=0.001", "schedule.steps=9"}),
            "optimizer.muon.lr: 0.002 when the checkpoint was written, 0.001 now");
  EXPECT_EQ(difference({}, {"model.hidden_size=48"}), "model.hidden_size: 32 when the checkpoint was written, 48 now");
  EXPECT_EQ(difference({}, {"model.linear_attn_config.head_dim=8"}),
            "model.linear_attn_config.head_dim: 16 when the checkpoint was written, 8 now");
  EXPECT_EQ(difference({"model.bos_token_id=1"}, {}),
            "model.bos_token_id: 1 when the checkpoint was written, null now");
  EXPECT_EQ(first_difference(R"({"runs":[{"name":"a"}]})", R"({"runs":[{"name":"b"}]})"),
            "runs[0].name: \"a\" when the checkpoint was written, \"b\" now");
  EXPECT_THROW(first_difference("{", "{}"), FormatError);
}

TEST(train_config, hostile_text_is_refused) {
  for (const char* text : {"", "[]", "{", "null", "{\"model\": 3}", "\xff", "{\"data\": {\"folder\": 7}}"})
    EXPECT_THROW(parse_train_config(text, "t.json"), FormatError) << text;
}

}  // namespace
}  // namespace linnet::train
