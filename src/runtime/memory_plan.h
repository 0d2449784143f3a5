// What running a model takes in memory, known before anything is allocated.
#pragma once

#include <cstdint>

#include "model/kimi_linear.h"

namespace linnet::runtime {

struct MemoryPlan {
  int64_t weight_bytes = 0;              // of a checkpoint: mapped, pages that the system can drop and read again
  int64_t state_bytes_per_sequence = 0;  // of one sequence, however long
  int64_t state_bytes_per_block = 0;  // and for each model::kStateBlock of its tokens, the last of which may be fewer
  int64_t activation_bytes = 0;       // of one pass

  int64_t state_bytes_per_token() const { return state_bytes_per_block / model::kStateBlock; }
  // What the pool hands out for a sequence of so many tokens.
  int64_t state_bytes(int64_t n_tokens) const {
    return state_bytes_per_sequence + (n_tokens + model::kStateBlock - 1) / model::kStateBlock * state_bytes_per_block;
  }
};

MemoryPlan plan_memory(const model::KimiLinear& model, int64_t tokens_per_pass);

// The longest context up to `limit` that fits beside weights and activations. At least min(limit, 4096): whether that fits is
// require_memory's question.
int64_t fitting_context(const MemoryPlan& plan, int64_t limit, uint64_t available_bytes);

// Throws OutOfMemory when one sequence of `context` tokens and the activations do not fit.
void require_memory(const MemoryPlan& plan, int64_t context, uint64_t available_bytes);

// f32 activations that one token keeps alive at the widest point of a layer.
int64_t activation_bytes_per_token(const model::ModelConfig& config);

constexpr int64_t kActivationBytes = int64_t{96} << 20;
constexpr int64_t kLogitRows = 64;  // rows of logits computed at a time

// Tokens of a pass, a multiple of the chunk, whose activations stay within kActivationBytes.
int64_t default_tokens_per_pass(const model::ModelConfig& config);

}  // namespace linnet::runtime
