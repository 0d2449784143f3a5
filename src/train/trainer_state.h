// trainer.json: what a run needs to go on beside its tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "train/token_shards.h"

namespace linnet::train {

struct TrainerState {
  int64_t step = 0;                       // updates made
  int64_t tokens = 0;                     // trained on
  double seconds = 0;                     // spent
  ShardIdentity data;                     // of the tokenizer and of the shards
  std::string config;                     // canonical_json()
  std::map<std::string, double> numbers;  // whatever the trainer's own state has: every double comes back bit for bit
};

std::string trainer_json(const TrainerState& state);
TrainerState parse_trainer_json(std::string_view json, std::string place);  // throws FormatError

// Throws InvalidArgument "RUN: cannot resume: optimizer.muon.lr: 0.002 when the checkpoint was written, 0.001 now" for another
// configuration (first_difference), another tokenizer or other data.
void require_resumable(const TrainerState& saved, const TrainerState& now, std::string_view place);

}  // namespace linnet::train
