// How many parameters a model has, where they are, and how many of them one token uses.
#pragma once

#include <array>
#include <cstdint>

#include "model/kimi_linear.h"

namespace linnet::model {

enum class ParameterGroup : uint8_t {
  embedding,
  head,
  kda,
  mla,
  other_mixer,
  dense_ffn,
  router,
  experts,
  shared_experts,
  norms
};
constexpr int kParameterGroups = 10;
const char* name_of(ParameterGroup group);

struct ParameterCounts {
  struct Count {
    int64_t parameters = 0, bytes = 0;                // all
    int64_t active_parameters = 0, active_bytes = 0;  // that one token reads: one embedding row, K of E experts
  };
  std::array<Count, kParameterGroups> groups;
  Count total;
  const Count& of(ParameterGroup g) const { return groups[static_cast<size_t>(g)]; }
};

// Bytes are those in memory: of matrices in the type of their file (config.dtype before parameters are in place), of the small
// vectors in f32. A tied embedding is counted once, and read whole by every token as the head.
ParameterCounts count_parameters(const KimiLinear& model);

}  // namespace linnet::model
