// Training checkpoints: folders step-00001234 that appear complete and on disk, or not at all.
//
//   config.json, model.safetensors              the model, as `linnet generate` and others load it
//   tiktoken.model, tokenizer_config.json, ...  copies of the tokenizer's files
//   optimizer.safetensors                       master weights and momenta
//   trainer.json                                what else a run needs to go on (train/trainer_state.h)
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/errors.h"
#include "core/tensor.h"
#include "formats/checkpoint.h"
#include "train/run_folder.h"

namespace linnet::train {

// The disk would not take it (full, read-only, gone). Nothing of it is left, earlier checkpoints stay: the run may go on.
struct CheckpointNotWritten : IoError {
  using IoError::IoError;
};

struct NamedTensor {
  std::string name;
  ConstTensor data;              // dense, at least one extent
  std::optional<DType> as = {};  // f32 data may be written as bf16 or f16, rounded to nearest even; none: as it is
};

struct CheckpointContents {
  int64_t step = 0;
  std::map<std::string, std::string> texts;  // file name -> contents: config.json, trainer.json, generation_config.json
  std::filesystem::path tokenizer_folder;    // whose tokenizer files are copied; empty: none
  std::vector<NamedTensor> model;            // published names
  std::vector<NamedTensor> optimizer;        // any names: "model.norm.weight/master", ".../momentum"
};

// Writes FOLDER/step-NNNNNNNN and returns it: all in a temporary folder, every file synced, then renamed, the parent synced; a
// checkpoint of the same step is replaced. Then removes the oldest until `keep` remain (keep >= 1). Throws
// CheckpointNotWritten, or InvalidArgument for contents that cannot be written (a name twice, a tensor that is not dense).
std::filesystem::path save_checkpoint(const RunFolder& folder, const CheckpointContents& contents, int64_t keep);

struct LoadedCheckpoint {
  std::filesystem::path path;
  int64_t step;
  std::string trainer_json;
  formats::Checkpoint model, optimizer;  // mapped files: copy what is kept
};
LoadedCheckpoint load_checkpoint(const SavedCheckpoint& saved);  // throws IoError, FormatError

// Copies a tensor of the file into `to`, which is dense; throws FormatError naming file and tensor when it is missing or of another
// shape or type.
void read_tensor(const formats::Checkpoint& file, std::string_view name, const Tensor& to);

}  // namespace linnet::train
