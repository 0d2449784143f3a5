// What a trainer saves and restores, and what it will take in memory.
#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/mapped_file.h"
#include "train/trainer.h"
#include "train/trainer_state.h"

namespace linnet::train {
namespace {

constexpr const char* kPosition = "position.json";  // in the data
constexpr size_t kMaxPositionBytes = size_t{64} << 20;

std::string generation_config(const model::ModelConfig& config) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (config.bos_id >= 0) json["bos_token_id"] = config.bos_id;
  if (!config.eos_ids.empty()) json["eos_token_id"] = config.eos_ids;
  return json.dump(2) + "\n";
}

Tensor published_shape(const Parameter& p) {
  const std::vector<int64_t>& s = p.row->shape;
  const Tensor flat = p.master.reshaped({p.master.elements()});
  switch (s.size()) {
    case 1: return flat.reshaped({s[0]});
    case 2: return flat.reshaped({s[0], s[1]});
    case 3: return flat.reshaped({s[0], s[1], s[2]});
    default: return flat.reshaped({s[0], s[1], s[2], s[3]});
  }
}

}  // namespace

TrainerState Trainer::state() const {
  return {.step = step_,
          .tokens = step_ * config_.data.batch_tokens,
          .seconds = seconds_,
          .data = shards_.identity(),
          .config = canonical_json(config_),
          .numbers = {{"usual_loss", usual_loss_}}};
}

CheckpointContents Trainer::contents() const {
  CheckpointContents contents{.step = step_, .tokenizer_folder = shards_.tokenizer_folder()};
  model::ModelConfig config = model_.config();
  config.dtype = config_.precision;
  contents.texts = {{"config.json", model::config_json(config)},
                    {"generation_config.json", generation_config(config)},
                    {"trainer.json", trainer_json(state())},
                    {kPosition, batches_.position() + "\n"}};
  // A reader that does not tie finds the head under its own name.
  if (config.tie_embeddings)
    contents.model.push_back({.name = "lm_head.weight", .data = parameters_.all()[0].master, .as = config_.precision});
  for (const Parameter& p : parameters_.all()) {
    contents.model.push_back(
        {.name = p.row->name, .data = published_shape(p), .as = p.row->matrix ? config_.precision : DType::f32});
    contents.optimizer.push_back({.name = p.row->name + "/master", .data = p.master});
    if (p.first) contents.optimizer.push_back({.name = p.row->name + "/first", .data = p.first});
    if (p.second) contents.optimizer.push_back({.name = p.row->name + "/second", .data = p.second});
  }
  if (lane_states_.size() > 0) contents.optimizer.push_back({.name = "lane_states", .data = lane_states()});
  return contents;
}

Tensor Trainer::lane_states() const {
  return Tensor(lane_states_.data(), DType::f32, {batches_.n_lanes(), lane_bytes_ / 4});
}

void Trainer::restore(const LoadedCheckpoint& checkpoint) {
  const TrainerState saved = parse_trainer_json(checkpoint.trainer_json, (checkpoint.path / "trainer.json").string());
  require_resumable(saved, state(), checkpoint.path.string());
  for (const Parameter& p : parameters_.all()) {
    read_tensor(checkpoint.optimizer, p.row->name + "/master", p.master);
    if (p.first) read_tensor(checkpoint.optimizer, p.row->name + "/first", p.first);
    if (p.second) read_tensor(checkpoint.optimizer, p.row->name + "/second", p.second);
  }
  if (lane_states_.size() > 0) read_tensor(checkpoint.optimizer, "lane_states", lane_states());
  batches_.seek(formats::read_text_file(checkpoint.path / kPosition, kMaxPositionBytes));
  step_ = saved.step, seconds_ = saved.seconds;
  usual_loss_ = saved.numbers.at("usual_loss");
  parameters_.refresh({pool_, scratch_});
}

TrainingMemory plan_training_memory(const model::KimiLinear& model, const TrainConfig& config) {
  const int64_t tokens = config.data.micro_batch_tokens, row = 4 * model.config().hidden;
  int64_t state = 0;
  for (const auto& specs : model.state_specs())
    for (const model::StateSpec& s : specs)
      if (s.lifetime == model::Lifetime::per_sequence) state += s.bytes();
  TrainingMemory memory{.parameters = Parameters::bytes_of(model.table(), config.precision)};
  memory.tape_bytes = tokens * model.tape_bytes_per_token(config.recompute);
  // The gradients of one layer's activations are about as many as the activations; the stream and its gradient come on top.
  const int64_t layer = model.tape_bytes_per_token(model::Recompute::layer) - model.config().n_layers() * row;
  memory.scratch_bytes = tokens * (layer + 4 * row);
  memory.state_bytes = config.state.policy == StatePolicy::zero
                           ? 0
                           : 2 * state * (config.data.batch_tokens / config.data.sequence_tokens);
  return memory;
}

std::string TrainingMemory::table() const {
  const auto line = [](const char* name, int64_t bytes) {
    char text[80];
    std::snprintf(text, sizeof text, "  %-22s %12s\n", name, bytes_text(static_cast<uint64_t>(bytes)).c_str());
    return std::string(text);
  };
  return cat(line("master weights", parameters.masters), line("gradients", parameters.gradients),
             line("optimizer state", parameters.optimizer), line("copies for products", parameters.copies),
             line("kept activations", tape_bytes), line("temporaries, about", scratch_bytes),
             line("recurrent states", state_bytes), line("in all", total()));
}

void require_training_memory(const TrainingMemory& memory, uint64_t available_bytes) {
  if (static_cast<uint64_t>(memory.total()) <= available_bytes) return;
  throw OutOfMemory(cat("training: expected at most ", bytes_text(available_bytes), " (what is free), got ",
                        bytes_text(static_cast<uint64_t>(memory.total())), ": ",
                        bytes_text(static_cast<uint64_t>(memory.parameters.total())), " of parameters and optimizer, ",
                        bytes_text(static_cast<uint64_t>(memory.tape_bytes + memory.scratch_bytes)),
                        " of activations; try a smaller data.micro_batch_tokens or recompute \"layer\""));
}

}  // namespace linnet::train
