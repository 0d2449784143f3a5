// linnet train from text to a model that generates; stopped, killed and resumed; and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/cli_test_support.h"
#include "core/rng.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

class TrainCommand : public testing::Test {
 protected:
  TrainCommand() {
    Rng rng(3);
    std::string text;
    for (int i = 0; i < 60; ++i) {
      for (int w = 0; w < 40; ++w) text += cat("bird", rng.bits() % 9, w % 9 == 8 ? ".\n" : " sings ");
      text += "\n---\n";
    }
    const Outcome built = linnet({"data", "build", folder_.write("a.txt", text), "--separator", "---", "--tokenizer",
                                  tiny_checkpoint(), "-o", path("data"), "--held-out", "0.1"});
    EXPECT_EQ(built.status, 0) << built.err;
    config_ = {{"model", {{"config", source_path("examples/configs/tiny.json")}}},
               {"data", {{"folder", path("data")}, {"sequence_tokens", 64}, {"batch_tokens", 512}}},
               {"schedule", {{"steps", 12}, {"warmup_steps", 2}}},
               {"checkpoint", {{"folder", path("run")}, {"every_steps", 4}, {"keep", 2}}},
               {"evaluation", {{"every_steps", 6}, {"tokens", 1000}}}};
  }
  std::string path(const std::string& name) const { return folder_ / name; }
  Outcome train(std::vector<std::string> more = {}, const RunOptions& options = {}) {
    std::vector<std::string> args = {"train", folder_.write("train.json", config_.dump())};
    args.insert(args.end(), more.begin(), more.end());
    return linnet(args, options);
  }
  std::string set(const std::string& folder) const { return "checkpoint.folder=" + path(folder); }
  // Everything of a checkpoint that a run is made of.
  std::string bytes_of(const std::string& checkpoint) const {
    std::string all;
    for (const char* file : {"model.safetensors", "optimizer.safetensors", "position.json", "config.json"})
      all += formats::contents(folder_ / checkpoint / file);
    return all;
  }

  const formats::ScratchFolder folder_;
  json config_;
};

TEST_F(TrainCommand, MakesAModelThatGenerates) {
  const Outcome trained = train();
  ASSERT_EQ(trained.status, 0) << trained.err;
  EXPECT_EQ(trained.out, "");
  for (const char* text : {"master weights", "kept activations", "step 12 / 12", "held-out loss"})
    EXPECT_THAT(trained.err, HasSubstr(text));
  for (const char* file :
       {"run/log.jsonl", "run/report.html", "run/step-00000008/model.safetensors", "run/step-00000012/tiktoken.model"})
    EXPECT_TRUE(fs::exists(folder_ / file)) << file;
  EXPECT_FALSE(fs::exists(folder_ / "run/step-00000004")) << "two are kept";

  const Outcome generated = linnet({"generate", "--model", path("run/step-00000012"), "-p", "bird1 sings", "-n", "8",
                                    "--temperature", "0", "--ignore-eos"});
  EXPECT_EQ(generated.status, 0) << generated.err;
  EXPECT_NE(generated.out, "");

  // What evaluation says is what perplexity says of the checkpoint, to the rounding of activations by another way through attention.
  std::string line, last;
  std::istringstream log(formats::contents(folder_ / "run/log.jsonl"));
  while (std::getline(log, line))
    if (line.find("held_out_loss") != std::string::npos) last = line;
  const Outcome scored =
      linnet({"perplexity", "--model", path("run/step-00000012"), "--data", path("data"), "--json", "--context", "64"});
  ASSERT_EQ(scored.status, 0) << scored.err;
  EXPECT_NEAR(json::parse(scored.out)["loss"].get<double>(), json::parse(last)["held_out_loss"].get<double>(), 0.1);
}

TEST_F(TrainCommand, TracesWhereTheTimeOfItsStepsWent) {
  config_["evaluation"]["every_steps"] = 1;  // their passes are not counted
  const Outcome trained = train({"--trace", "--threads", "2"});
  ASSERT_EQ(trained.status, 0) << trained.err;
  std::istringstream lines(trained.out);
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line, "where the time of 12 steps on 2 threads went");
  std::map<std::string, int> calls;
  double share = 0, first_share = 0;
  while (std::getline(lines, line)) {
    const size_t name_end = line.find("  ");
    std::istringstream columns(line.substr(name_end));
    int n = 0;
    std::string word;
    double seconds = 0, percent = 0;
    if (line.find("the rest") != 0) columns >> n >> word;
    columns >> seconds >> word >> percent;
    calls[line.substr(0, name_end)] = n, share += percent;
    if (first_share == 0) first_share = percent;
    EXPECT_LE(percent, line.find("the rest") == 0 ? 100 : first_share) << line;
  }
  EXPECT_NEAR(share, 100, 0.05 * static_cast<double>(calls.size())) << trained.out;
  for (const char* once : {"batches", "clear gradients", "gradient norm", "weight copies", "muon", "head", "embedding"})
    EXPECT_EQ(calls[once], 12) << once << "\n" << trained.out;
  for (const char* name : {"kda core bwd", "the rest"}) EXPECT_TRUE(calls.count(name)) << name;
  EXPECT_FALSE(calls.count("step"));
}

TEST_F(TrainCommand, ResumedRunsAreTheSameBitForBit) {
  ASSERT_EQ(train({"--set", set("whole"), "-t", "2"}).status, 0);
  ASSERT_EQ(train({"--set", set("parts"), "--set", "stop_step=5", "-t", "1"}).status, 0);
  EXPECT_TRUE(fs::exists(folder_ / "parts/step-00000005"));
  expect_refusal(train({"--set", set("parts")}), 2,
                 "parts: expected a folder without checkpoints, got one with step 5");
  const Outcome resumed = train({"--set", set("parts"), "--resume"});
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(bytes_of("parts/step-00000012"), bytes_of("whole/step-00000012"));
}

TEST_F(TrainCommand, AKilledRunGoesOnFromItsLastCheckpoint) {
  config_["schedule"]["steps"] = 40;
  ASSERT_EQ(train({"--set", set("whole")}).status, 0);
  std::vector<std::string> args = {"train", path("train.json"), "--set", set("killed"), "--resume"};
  int kills = 0;
  for (int attempt = 0; attempt < 60 && !fs::exists(folder_ / "killed/step-00000040"); ++attempt) {
    Child child = start(args, {});
    std::this_thread::sleep_for(std::chrono::milliseconds(60 + 20 * attempt));
    kill(child.id, SIGKILL);
    for (int* fd : {&child.in, &child.out, &child.err}) close_end(*fd);
    int status = 0;
    waitpid(child.id, &status, 0);
    kills += WIFSIGNALED(status);
  }
  EXPECT_GT(kills, 0);
  ASSERT_EQ(linnet(args).status, 0) << "what is left can always be resumed";
  EXPECT_EQ(bytes_of("killed/step-00000040"), bytes_of("whole/step-00000040"));
}

TEST_F(TrainCommand, InterruptSavesAndEnds) {
  config_["schedule"]["steps"] = 100000;
  std::vector<std::string> args = {"train", folder_.write("train.json", config_.dump())};
  Child child = start(args, {});
  while (child.outcome.err.find("step 1 /") == std::string::npos) ASSERT_TRUE(move_bytes(child, {}));
  kill(child.id, SIGINT);
  while (child.err >= 0) ASSERT_TRUE(move_bytes(child, {}));
  int status = 0;
  waitpid(child.id, &status, 0);
  for (int* fd : {&child.in, &child.out, &child.err}) close_end(*fd);
  EXPECT_EQ(WEXITSTATUS(status), 130) << child.outcome.err;
  EXPECT_THAT(child.outcome.err, HasSubstr("saved "));
}

TEST_F(TrainCommand, ComparesModelsOnTheSameBatches) {
  const json tiny = json::parse(formats::contents(source_path("examples/configs/tiny.json")));
  json gdn = tiny, mla = tiny;
  gdn["linear_attn_config"]["kda_layers"] = json::array(), gdn["linear_attn_config"]["gdn_layers"] = {1, 2, 3};
  mla["linear_attn_config"]["kda_layers"] = json::array(), mla["linear_attn_config"]["full_attn_layers"] = {1, 2, 3, 4};
  config_.erase("model");
  config_["runs"] = {
      {{"name", "kda"}, {"model", tiny}}, {{"name", "gdn"}, {"model", gdn}}, {{"name", "mla"}, {"model", mla}}};
  config_["schedule"]["steps"] = 3;
  const Outcome trained = train();
  ASSERT_EQ(trained.status, 0) << trained.err;
  const std::string report = formats::contents(folder_ / "run/report.html");
  for (const char* name : {"kda", "gdn", "mla"}) {
    EXPECT_TRUE(fs::exists(folder_ / "run" / name / "step-00000003")) << name;
    EXPECT_THAT(report, HasSubstr(cat("\"", name, "\""))) << name;
  }
  EXPECT_EQ(formats::contents(folder_ / "run/kda/step-00000003/position.json"),
            formats::contents(folder_ / "run/mla/step-00000003/position.json"));
}

TEST_F(TrainCommand, FineTunesACheckpoint) {
  ASSERT_EQ(train({"--set", "schedule.steps=4"}).status, 0);
  config_["model"] = {{"from", path("run/step-00000004")}};
  const Outcome tuned = train({"--set", set("tuned"), "--set", "schedule.steps=3"});
  ASSERT_EQ(tuned.status, 0) << tuned.err;
  EXPECT_TRUE(fs::exists(folder_ / "tuned/step-00000003/model.safetensors"));
}

TEST_F(TrainCommand, BadInputIsOneLine) {
  expect_refusal(linnet({"train"}), 2, "expected a configuration file");
  expect_refusal(linnet({"train", path("none.json")}), 3, "none.json");
  expect_refusal(train({"--set", "optimizer.muon.learning_rate=1"}), 3, "optimizer.muon.learning_rate");
  expect_refusal(train({"--set", "data.folder=" + path("nowhere")}), 3, "nowhere");
  expect_refusal(train({"--set", "data.batch_tokens=1000"}), 3, "batch_tokens");
  const Outcome large = train(
      {"--set", "data.batch_tokens=1099511627776", "--set", "schedule.steps=1", "--set", "schedule.warmup_steps=0"});
  EXPECT_EQ(large.status, 4) << large.err;
  EXPECT_THAT(large.err, HasSubstr("kept activations"));
  EXPECT_THAT(large.err, HasSubstr("training: expected at most"));
}

// A disk that fills during a checkpoint costs that checkpoint. The model file is the first that outgrows the limit.
TEST_F(TrainCommand, AFullDiskLeavesTheRunGoing) {
  const Outcome trained = train({}, {.file_limit = 200000});
  EXPECT_EQ(trained.status, 3) << trained.err;
  EXPECT_THAT(trained.err, HasSubstr("step 12 / 12"));
  EXPECT_THAT(trained.err, HasSubstr("linnet: the end of the run at step 12 is not saved: "));
  for (const auto& entry : fs::directory_iterator(folder_ / "run"))
    EXPECT_FALSE(entry.path().filename().string().starts_with("step-")) << entry.path();
}

TEST(TrainHelp, DescribesEveryField) {
  const Outcome described = linnet({"train", "--describe"});
  EXPECT_EQ(described.status, 0);
  for (const char* field : {"optimizer.muon.lr", "data.sequence_tokens", "state.policy", "recompute"})
    EXPECT_THAT(described.out, HasSubstr(field));
}

}  // namespace
}  // namespace linnet::cli
