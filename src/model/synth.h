// Random checkpoints: a folder that looks like a published one, with drawn weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "core/thread_pool.h"
#include "model/config.h"

namespace linnet::model {

struct SynthOptions {
  uint64_t seed = 0;
  uint64_t max_shard_bytes = 5'000'000'000;  // of one safetensors file
};

struct SynthResult {
  int64_t n_tensors = 0, n_parameters = 0, n_bytes = 0;
  bool has_tokenizer = false;
};

// Told as bytes are written.
using SynthProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

// Writes config.json (published form), the tensors of the model's table under their published names (matrices, norms and
// convolutions in config.dtype; A_log, dt_bias and the router bias in f32), generation_config.json, and, for a vocabulary of at least
// 256, a byte-level tiktoken.model whose special tokens end at the vocabulary's end, as in the published files. The same seed and
// config give the same bytes for any thread count. `dir` must not exist or be empty. Throws InvalidArgument, IoError; nothing is then left.
SynthResult write_synthetic_checkpoint(const std::filesystem::path& dir, const ModelConfig& config,
                                       const SynthOptions& options, ThreadPool& pool, const SynthProgress& progress);

}  // namespace linnet::model
