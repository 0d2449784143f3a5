#include "runtime/memory_plan.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"
#include "model/parameter_counts.h"
#include "ops/linear_attn/linear_attn.h"
#include "runtime/state_block.h"

namespace linnet::runtime {
namespace {

constexpr int64_t kMaxTokensPerPass = 2048;
constexpr int64_t kLeastContext = 4096;

}  // namespace

// Mirrors the temporaries of delta.cpp, mla.cpp and moe.cpp.
int64_t activation_bytes_per_token(const model::ModelConfig& c) {
  const int64_t kda = 9 * c.kda.heads * c.kda.head_dim;
  const int64_t mla = c.mla.heads * (c.mla.query_dim() + c.mla.value_dim) + c.mla.cache_dim();
  const int64_t moe =
      c.moe.experts_per_token * (2 * c.moe.width + c.hidden) + 2 * c.moe.shared_experts * c.moe.width + c.moe.experts;
  const int64_t packed = std::max({c.hidden, c.dense_width, c.kda.heads * c.kda.head_dim});
  return static_cast<int64_t>(sizeof(float)) * (4 * c.hidden + std::max({kda, mla, moe, 2 * c.dense_width}) + packed);
}

int64_t default_tokens_per_pass(const model::ModelConfig& c) {
  const int64_t chunk = ops::kLinearAttnChunk;
  return std::clamp(kActivationBytes / activation_bytes_per_token(c) / chunk * chunk, chunk, kMaxTokensPerPass);
}

MemoryPlan plan_memory(const model::KimiLinear& model, int64_t tokens_per_pass) {
  const model::ModelConfig& config = model.config();
  const StatePool pool(model.state_specs(), "");  // it knows how states lie in memory
  MemoryPlan plan{.weight_bytes = model::count_parameters(model).total.bytes,
                  .state_bytes_per_sequence = static_cast<int64_t>(pool.sequence_bytes()),
                  .state_bytes_per_block = static_cast<int64_t>(pool.block_bytes())};
  plan.activation_bytes = tokens_per_pass * activation_bytes_per_token(config) +
                          kLogitRows * config.vocab_size * static_cast<int64_t>(sizeof(float));
  return plan;
}

int64_t fitting_context(const MemoryPlan& plan, int64_t limit, uint64_t available_bytes) {
  const int64_t left =
      static_cast<int64_t>(available_bytes) - plan.weight_bytes - plan.activation_bytes - plan.state_bytes_per_sequence;
  if (plan.state_bytes_per_block == 0) return limit;
  return std::min(limit, std::max(left / plan.state_bytes_per_block * model::kStateBlock, kLeastContext));
}

void require_memory(const MemoryPlan& plan, int64_t context, uint64_t available_bytes) {
  const auto needed = static_cast<uint64_t>(plan.state_bytes(context) + plan.activation_bytes);
  if (needed <= available_bytes) return;
  throw OutOfMemory(cat("memory: a context of ", context, " tokens needs ",
                        bytes_text(static_cast<uint64_t>(plan.state_bytes(context))), " of states and ",
                        bytes_text(static_cast<uint64_t>(plan.activation_bytes)), " of activations, but ",
                        bytes_text(available_bytes), " are available"));
}

}  // namespace linnet::runtime
