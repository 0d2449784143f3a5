// A trainer learns, goes on from a checkpoint bit for bit, and stops where its numbers do.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/errors.h"
#include "formats/file_test_support.h"
#include "train/train_test_support.h"

namespace linnet::train {
namespace {

using test_support::small_config;

// Documents that count upwards from a random start: easy to predict but for their beginning.
std::vector<std::vector<int32_t>> counting_documents(int32_t n, int32_t length, int32_t vocab) {
  Rng rng(3);
  std::vector<std::vector<int32_t>> all;
  for (int32_t d = 0; d < n; ++d) {
    auto id = static_cast<int32_t>(rng.bits() % static_cast<uint64_t>(vocab));
    std::vector<int32_t>& ids = all.emplace_back();
    for (int32_t i = 0; i < length + d % 7; ++i) ids.push_back(id), id = (id + 1) % vocab;
  }
  return all;
}

struct TrainerTest : testing::Test {
  TrainConfig config;
  std::vector<std::vector<int32_t>> documents;

  void SetUp() override {
    config.runs = {{.name = "", .model = {.config = small_config({"kda", "mla"}), .start = {}}}};
    config.seed = 1;
    config.data.sequence_tokens = 64, config.data.batch_tokens = 256, config.data.micro_batch_tokens = 128;
    config.data.folder = "shards";
    config.state.probability = 1;
    config.optimizer.muon = {.lr = 0.01, .momentum = 0.95, .weight_decay = 0.01};
    config.optimizer.adamw = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.01};
    config.optimizer.clip_norm = 1, config.optimizer.router_bias_rate = 1e-3;
    config.schedule = {.kind = ScheduleKind::constant, .steps = 1000, .warmup_steps = 2};
    config.checkpoint.folder = "run", config.checkpoint.keep = 2;
    config.evaluation.tokens = 512;
    documents = counting_documents(60, 40, 61);
  }
  TokenShards shards() const { return TokenShards::from_documents(61, documents, documents); }

  struct Trained {
    std::vector<double> losses, norms;
    std::vector<std::vector<float>> masters;
    bool operator==(const Trained&) const = default;
  };
  static void run(Trainer& trainer, int steps, Trained& out) {
    for (int i = 0; i < steps; ++i) {
      const StepResult r = trainer.step();
      out.losses.push_back(r.loss), out.norms.push_back(r.grad_norm);
    }
    out.masters.clear();
    for (const NamedTensor& t : trainer.contents().optimizer)
      out.masters.emplace_back(t.data.as<float>(), t.data.as<float>() + t.data.elements());
  }
  Trained trained(int steps, int threads = 2) {
    const TokenShards data = shards();
    ThreadPool pool(threads);
    Trainer trainer(config, config.runs[0], data, -1, pool);
    Trained out;
    run(trainer, steps, out);
    return out;
  }
};

TEST_F(TrainerTest, Learns) {
  const TokenShards data = shards();
  ThreadPool pool(2);
  Trainer trainer(config, config.runs[0], data, -1, pool);
  const double before = trainer.evaluate().loss;
  EXPECT_NEAR(before, std::log(61), 0.5) << "fresh weights know nothing";
  StepResult last;
  for (int i = 0; i < 60; ++i) last = trainer.step();
  EXPECT_EQ(last.step, 60);
  EXPECT_EQ(last.tokens, 256);
  const Evaluation after = trainer.evaluate();
  EXPECT_LT(after.loss, 0.5) << "each token but a document's first follows from the one before";
  EXPECT_EQ(after.tokens, trainer.evaluate().tokens);
}

TEST_F(TrainerTest, ThreadsChangeNoBit) {
  for (DType precision : {DType::bf16, DType::f32}) {
    config.precision = precision;
    const Trained want = trained(3, 1);
    EXPECT_EQ(trained(3, 2), want);
    EXPECT_EQ(trained(3, 3), want);
  }
}

TEST_F(TrainerTest, GoesOnFromACheckpointBitForBit) {
  for (StatePolicy policy :
       {StatePolicy::zero, StatePolicy::passed, StatePolicy::passed_with_gradient, StatePolicy::noise}) {
    SCOPED_TRACE(static_cast<int>(policy));
    config.state.policy = policy, config.state.noise_std = 0.5, config.state.probability = 0.7;
    const Trained want = trained(7);
    const formats::ScratchFolder folder;
    const TokenShards data = shards();
    ThreadPool pool(2);
    Trained got;
    {
      const RunFolder owner(folder.path());
      Trainer first(config, config.runs[0], data, -1, pool);
      run(first, 4, got);
      save_checkpoint(owner, first.contents(), 1);
    }
    Trainer second(config, config.runs[0], data, -1, pool);
    second.restore(load_checkpoint(*latest_checkpoint(folder.path())));
    EXPECT_EQ(second.steps_done(), 4);
    run(second, 3, got);
    EXPECT_EQ(got, want);
  }
}

TEST_F(TrainerTest, ResumingWithSomethingElseIsRefused) {
  const formats::ScratchFolder folder;
  const TokenShards data = shards();
  ThreadPool pool(1);
  const RunFolder owner(folder.path());
  Trainer first(config, config.runs[0], data, -1, pool);
  first.step();
  save_checkpoint(owner, first.contents(), 1);
  const auto message = [&](const TokenShards& with) -> std::string {
    Trainer second(config, config.runs[0], with, -1, pool);
    try {
      second.restore(load_checkpoint(*latest_checkpoint(folder.path())));
    } catch (const InvalidArgument& e) { return e.what(); }
    return "";
  };
  documents.pop_back();
  EXPECT_NE(message(shards()).find("data: "), std::string::npos);
  config.optimizer.muon.lr = 0.02;
  EXPECT_NE(message(data).find("optimizer.muon.lr: 0.01 when the checkpoint was written, 0.02 now"), std::string::npos)
      << message(data);
}

// Without full attention, rows that pass their state on compute what one row of their length computes.
TEST_F(TrainerTest, PassedStatesJoinTheSegmentsOfADocument) {
  config.runs[0].model.config = small_config({"kda", "gdn"});
  config.precision = DType::f32;
  config.optimizer.muon.lr = config.optimizer.adamw.lr = 0, config.optimizer.router_bias_rate = 0;
  documents = counting_documents(1, 128, 61);
  const auto losses = [&](StatePolicy policy, int64_t T, int64_t batch, int steps) {
    config.state.policy = policy;
    config.data.sequence_tokens = T, config.data.batch_tokens = config.data.micro_batch_tokens = batch;
    return trained(steps);
  };
  const Trained whole = losses(StatePolicy::zero, 128, 128, 1);
  const Trained parts = losses(StatePolicy::passed, 64, 64, 2);
  const Trained alone = losses(StatePolicy::zero, 64, 64, 2);
  const Trained joined = losses(StatePolicy::passed_with_gradient, 64, 128, 1);
  // 127 scored tokens: the first segment predicts 64 of them, the second 63. Roundings of f32 in sums of about 5.
  const double mean = (parts.losses[0] * 64 + parts.losses[1] * 63) / 127;
  EXPECT_NEAR(mean, whole.losses[0], 2e-6);
  EXPECT_GT(std::abs((alone.losses[0] * 64 + alone.losses[1] * 63) / 127 - whole.losses[0]), 1e-5)
      << "the state matters";
  EXPECT_EQ(joined.losses[0], whole.losses[0]);
  EXPECT_EQ(joined.norms[0], whole.norms[0]) << "the gradient reaches the first segment";
}

TEST_F(TrainerTest, AccumulationIsTheWholeStepsGradient) {
  config.precision = DType::f32;
  config.data.micro_batch_tokens = 256;
  const Trained one = trained(1);
  config.data.micro_batch_tokens = 64;
  const Trained four = trained(1);
  EXPECT_NEAR(four.losses[0], one.losses[0], 1e-6);
  EXPECT_NEAR(four.norms[0], one.norms[0], 1e-5 * one.norms[0]);
}

TEST_F(TrainerTest, StopsWhereNumbersDoAndNamesThePlace) {
  const TokenShards data = shards();
  ThreadPool pool(1);
  const auto message = [&](const char* tensor, float value) -> std::string {
    Trainer trainer(config, config.runs[0], data, -1, pool);
    trainer.step();
    CheckpointContents contents = trainer.contents();
    for (const NamedTensor& t : contents.model)
      if (t.name == tensor) *const_cast<float*>(t.data.as<float>()) = value;
    try {
      trainer.step();
    } catch (const Diverged& e) { return e.what(); }
    return "";
  };
  const std::string loss = message("model.norm.weight", std::numeric_limits<float>::quiet_NaN());
  EXPECT_NE(loss.find("step 2: loss: expected a finite number"), std::string::npos) << loss;
  EXPECT_NE(loss.find("documents "), std::string::npos) << loss;

  config.spike_factor = 0.9;  // the usual loss itself is a spike, once the alarm is armed
  Trainer trainer(config, config.runs[0], data, -1, pool);
  config.optimizer.muon.lr = config.optimizer.adamw.lr = 0;
  int steps = 0;
  EXPECT_THROW(
      while (steps < 40) {
        trainer.step();
        ++steps;
      },
      Diverged);
  EXPECT_GE(steps, 20);
}

TEST_F(TrainerTest, QkClipAndRouterBiasAct) {
  const TokenShards data = shards();
  ThreadPool pool(2);
  Trainer free(config, config.runs[0], data, -1, pool);
  const auto largest = [](Trainer& trainer) {  // logit of the last steps
    float logit = 0;
    for (int i = 0; i < 30; ++i) {
      const float seen = trainer.step().parts.max_logit;
      if (i >= 20) logit = std::max(logit, seen);
    }
    return logit;
  };
  const float unclipped = largest(free);
  config.optimizer.qk_clip = static_cast<double>(unclipped) / 4;
  Trainer clipped(config, config.runs[0], data, -1, pool);
  EXPECT_GT(unclipped, 0);
  EXPECT_LT(largest(clipped), unclipped / 2) << "a step may pass the threshold, and is brought back";

  const auto bias = [](const Trainer& t) {
    for (const NamedTensor& tensor : t.contents().model)
      if (tensor.name.find("e_score_correction_bias") != std::string::npos) return tensor.data.as<float>()[0];
    return 0.0f;
  };
  EXPECT_NE(bias(free), 0.0f);
}

TEST_F(TrainerTest, AModelThatDoesNotFitIsRefusedWithItsPlan) {
  const model::KimiLinear model(config.runs[0].model.config, DType::f32);
  const TrainingMemory memory = plan_training_memory(model, config);
  EXPECT_GT(memory.parameters.total(), 0);
  EXPECT_GT(memory.tape_bytes, 0);
  EXPECT_NE(memory.table().find("optimizer state"), std::string::npos);
  EXPECT_NO_THROW(require_training_memory(memory, static_cast<uint64_t>(memory.total())));
  EXPECT_THROW(require_training_memory(memory, static_cast<uint64_t>(memory.total()) - 1), OutOfMemory);
  config.recompute = model::Recompute::layer;
  EXPECT_LT(plan_training_memory(model, config).tape_bytes, memory.tape_bytes);
}

}  // namespace
}  // namespace linnet::train
