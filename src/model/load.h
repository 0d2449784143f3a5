// Loading a checkpoint folder into a model.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/thread_pool.h"
#include "formats/checkpoint.h"
#include "model/kimi_linear.h"

namespace linnet::model {

// Told how many of how many bytes of weights have been looked at.
using CheckProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

struct LoadOptions {
  ParityOptions parity;
  std::optional<DType> cache_dtype;  // of the latent cache; not given: f32 for f32 weights, else bf16
  bool check_values = true;          // look for NaN and infinite weights, when the checkpoint is at most kCheckedBytes
  CheckProgress check_progress;      // of that
};

// Larger checkpoints are not read through at load: a NaN then shows in the logits, and find_bad_weight names its tensor.
constexpr uint64_t kCheckedBytes = uint64_t{2} << 30;

struct LoadedModel {
  std::optional<formats::Checkpoint>
      checkpoint;  // owns the memory that the matrices view; absent when somebody else owns it
  std::unique_ptr<KimiLinear> model;
  std::string identity;  // architecture and weights; equal identities can exchange states
  DType cache_dtype;
};

// Reads config.json and the safetensors of `dir`. Throws FormatError naming file, tensor, what was expected and what came: a missing,
// extra or mis-shaped tensor, a dtype that is no float, a NaN or infinite weight.
LoadedModel load_model(const std::filesystem::path& dir, const LoadOptions& options, ThreadPool& pool);

// The values of one row of the table, from a checkpoint of any float type, widened into `to` (as many elements, f32, dense).
// Throws FormatError naming the file and the tensor when it is missing or has another shape.
void copy_parameter(const formats::Checkpoint& checkpoint, const TensorRow& row, const Tensor& to);

// "file: tensor: element 7: expected a finite number, got nan" of the first tensor in table order with a NaN or infinity; empty when
// there is none. The model must have its checkpoint.
std::string find_bad_weight(const LoadedModel& loaded, ThreadPool& pool, const CheckProgress& progress = nullptr);

}  // namespace linnet::model
