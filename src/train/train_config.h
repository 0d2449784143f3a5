// What one training run does: the JSON file that `linnet train` reads, resolved and checked. One list of the fields
// (train_config_fields.h) reads them, documents them and writes them back, so the three cannot differ.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "model/config.h"
#include "model/pass.h"
#include "train/token_shards.h"

namespace linnet::train {

// How documents lie in a sequence of T tokens.
enum class Packing : uint8_t {
  documents,  // side by side; recurrent state and attention start anew at each document
  stream,     // one after the other as one text; state and attention reach across
};

// The recurrent state that a sequence starts from (per-sequence states of KDA and GDN, convolution tails).
enum class StatePolicy : uint8_t {
  zero,
  passed,                // what the previous segment of the same document left
  passed_with_gradient,  // the same, and the gradient reaches that segment
  noise,                 // N(0, noise_std^2)
};

enum class ScheduleKind : uint8_t { constant, cosine, wsd };
using model::Recompute;

struct ModelSource {
  model::ModelConfig config;    // of the inline object, of the file, or of the folder's config.json
  std::filesystem::path start;  // model.from: the checkpoint whose weights are trained further; empty: fresh weights
};

struct RunDataConfig {
  std::filesystem::path folder;
  int64_t sequence_tokens = 0;     // T
  int64_t batch_tokens = 0;        // of one step: a multiple of micro_batch_tokens
  int64_t micro_batch_tokens = 0;  // of one pass: a multiple of T
  Packing packing = Packing::documents;
  std::string loss_after;  // name of the token after which the tokens of a document count; empty: all count
  int64_t shuffle_seed = 0;
};

struct StateConfig {
  StatePolicy policy = StatePolicy::zero;
  double noise_std = 0;
  double probability = 0;  // that a sequence follows the policy; else it starts from zero
};

struct MuonConfig {
  double lr = 0, momentum = 0, weight_decay = 0;
  bool nesterov = true;
};

struct AdamWConfig {
  double lr = 0, beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0;
};

struct OptimizerConfig {
  MuonConfig muon;
  AdamWConfig adamw;
  double clip_norm = 0;         // of the whole gradient; 0: not clipped
  double qk_clip = 0;           // tau; 0: off
  double router_bias_rate = 0;  // 0: the router bias stays
  double z_loss = 0;
};

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::wsd;
  int64_t steps = 0;  // resolved, also when the file gives tokens
  int64_t warmup_steps = 0;
  int64_t decay_steps = 0;  // of wsd; resolved, also when the file gives a fraction
  double final_ratio = 0;   // of the peak learning rate, at the end of cosine and wsd
};

struct CheckpointConfig {
  std::filesystem::path folder;
  int64_t every_steps = 0;   // 0: not by steps
  double every_minutes = 0;  // 0: not by time
  int64_t keep = 0;
};

struct EvaluationConfig {
  int64_t every_steps = 0;  // 0: never
  int64_t tokens = 0;
  Split split = Split::held_out;
};

// One of several models that train on the same batches.
struct RunConfig {
  std::string name;
  ModelSource model;
};

struct TrainConfig {
  std::vector<RunConfig> runs;  // at least one; without "runs" in the file: the one model, with an empty name
  int64_t seed = 0;
  DType precision = DType::bf16;  // of the matrix products; parameters, gradients and sums are f32
  int64_t threads = 0;            // 0: one for each core
  Recompute recompute = Recompute::none;
  double spike_factor = 0;  // a loss beyond this many times the mean of the last steps stops the run; 0: off
  int64_t stop_step = 0;    // save and end at this step, the schedule being that of all steps; 0: at the end
  RunDataConfig data;
  StateConfig state;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  CheckpointConfig checkpoint;
  EvaluationConfig evaluation;

  int64_t micro_batches() const { return data.batch_tokens / data.micro_batch_tokens; }
};

// Reads the file after applying `overrides`, each "key.path=value": the value is JSON, or else a string. Paths are relative to the
// current folder. Throws FormatError "FILE: optimizer.muon.lr: expected number in [0, 10], got -1", also for unknown keys, and
// InvalidArgument "--set ..." for an override that is malformed.
TrainConfig read_train_config(const std::filesystem::path& file, std::span<const std::string> overrides = {});
TrainConfig parse_train_config(std::string_view json, std::string place, std::span<const std::string> overrides = {});

// The text of `json` with the overrides applied.
std::string with_overrides(std::string_view json, const std::string& place, std::span<const std::string> overrides);

struct FieldDescription {
  std::string name;           // "optimizer.muon.lr"
  std::string default_value;  // "0.001", "required"
  std::string meaning;
  bool may_change_on_resume;
  std::vector<std::string> choices;  // of a field that names one of several
};
std::vector<FieldDescription> describe_train_config();
std::string train_config_markdown();  // the table of docs/training.md; * marks what may change on resume
std::string train_config_help(size_t columns = 110);  // the same for a terminal

// The resolved configuration: every field, in a fixed order; a file of this text means the same run. Throws InvalidArgument for a
// model that config.json cannot say.
std::string canonical_json(const TrainConfig& config);

// For --resume: "optimizer.muon.lr: 0.002 when the checkpoint was written, 0.001 now" for the first field that differs; empty when
// the run may go on. Fields that only say where and how fast (threads, recompute, folders, checkpoint.*, evaluation.*, stop_step,
// spike_factor) may differ. Both are texts of canonical_json().
std::string first_difference(std::string_view saved, std::string_view now);

}  // namespace linnet::train
