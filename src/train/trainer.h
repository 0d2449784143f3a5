// Trainer: one model, its optimizer and its place in the data. step() is the whole of training; what surrounds it (log, report,
// checkpoints, signals) is run.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/exec.h"
#include "core/rng.h"
#include "model/kimi_linear.h"
#include "train/batches.h"
#include "train/checkpoint.h"
#include "train/parameters.h"
#include "train/schedule.h"
#include "train/token_shards.h"
#include "train/train_config.h"
#include "train/trainer_state.h"

namespace linnet::train {

// The loss or a gradient is no number, or the loss has jumped. The text names the step, the tensor and the documents.
struct Diverged : InvalidArgument {
  using InvalidArgument::InvalidArgument;
};

struct StepResult {
  int64_t step = 0;        // from 1
  double loss = 0;         // mean negative log-likelihood of the scored tokens, natural log
  double grad_norm = 0;    // before clipping
  double rate_factor = 0;  // of the learning rates
  int64_t tokens = 0;      // read
  int64_t scored = 0;
  model::StepReport parts;
};

struct Evaluation {
  double loss = 0;           // per scored token
  double bits_per_byte = 0;  // of the text, by the mean bytes per token of the split
  int64_t tokens = 0;
};

// What a run will take in memory.
struct TrainingMemory {
  Parameters::Bytes parameters;
  int64_t tape_bytes = 0, scratch_bytes = 0, state_bytes = 0;
  int64_t total() const { return parameters.total() + tape_bytes + scratch_bytes + state_bytes; }
  std::string table() const;
};
TrainingMemory plan_training_memory(const model::KimiLinear& model, const TrainConfig& config);
// Throws OutOfMemory with the table when it does not fit.
void require_training_memory(const TrainingMemory& memory, uint64_t available_bytes);

class Trainer {
 public:
  // marker: id of data.loss_after, or -1. The shards must outlive the trainer.
  Trainer(const TrainConfig& config, const RunConfig& run, const TokenShards& shards, int32_t marker, ThreadPool& pool);

  StepResult step();  // throws Diverged; the parameters are then as before the step
  Evaluation evaluate();

  int64_t steps_done() const { return step_; }
  double seconds() const { return seconds_; }  // spent in steps, over all resumes
  double epochs() const { return batches_.epochs(); }
  double flops_per_token() const { return flops_per_token_; }  // 6 x active parameters
  const model::KimiLinear& model() const { return model_; }

  // The run so far. The views in it point into the trainer.
  CheckpointContents contents() const;
  void restore(const LoadedCheckpoint& checkpoint);  // throws FormatError

 private:
  std::vector<Batch> next_batches();
  void run_batch(const Batch& batch, int64_t index, float scale, bool forward_only, std::vector<float>& nll);
  void place_states(const Batch& batch, int64_t index, bool forward_only, model::Pass& pass);
  void draw_noise(std::byte* state, int64_t bytes, Rng rng) const;
  TrainerState state() const;
  Tensor lane_states() const;  // [lanes, values]
  double checked_norm(const std::vector<Batch>& batches, double loss) const;
  void update(double grad_scale, double rate_factor);

  const TrainConfig& config_;
  const TokenShards& shards_;
  ThreadPool& pool_;
  Workspace scratch_, tape_;
  model::KimiLinear model_;
  Parameters parameters_;
  Batches batches_;
  int32_t marker_;
  double flops_per_token_ = 0;
  int64_t step_ = 0;
  double seconds_ = 0;
  double usual_loss_ = 0;  // running mean of the last steps, for the spike alarm

  // Recurrent states: of the sequences of a pass (shared by all layers), and of the lanes between steps.
  int64_t working_bytes_ = 0, lane_bytes_ = 0;  // per sequence: widest layer; all layers
  Buffer lane_states_;
  std::vector<model::LayerState> states_, initial_;
  std::vector<int64_t> n_past_;
};

}  // namespace linnet::train
