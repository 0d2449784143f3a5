#include "model/parameter_counts.h"

#include <cstdlib>
#include <string_view>

namespace linnet::model {
namespace {

using Count = ParameterCounts::Count;

bool contains(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }

// The published names say where a parameter belongs; only the mixer's kind stands in the config.
ParameterGroup group_of(const std::string& name, const ModelConfig& config) {
  if (contains(name, "embed_tokens.")) return ParameterGroup::embedding;
  if (contains(name, "lm_head.")) return ParameterGroup::head;
  if (contains(name, ".shared_experts.")) return ParameterGroup::shared_experts;
  if (contains(name, ".experts.")) return ParameterGroup::experts;
  if (contains(name, ".block_sparse_moe.")) return ParameterGroup::router;
  if (contains(name, ".mlp.")) return ParameterGroup::dense_ffn;
  if (!contains(name, ".self_attn.")) return ParameterGroup::norms;
  const int layer = std::atoi(name.c_str() + std::string_view("model.layers.").size());
  const std::string& mixer = config.mixers[static_cast<size_t>(layer)];
  return mixer == "kda" ? ParameterGroup::kda : mixer == "mla" ? ParameterGroup::mla : ParameterGroup::other_mixer;
}

void add(Count& to, const Count& c) {
  to.parameters += c.parameters, to.bytes += c.bytes;
  to.active_parameters += c.active_parameters, to.active_bytes += c.active_bytes;
}

}  // namespace

const char* name_of(ParameterGroup group) {
  switch (group) {
    case ParameterGroup::embedding: return "embedding";
    case ParameterGroup::head: return "head";
    case ParameterGroup::kda: return "KDA mixers";
    case ParameterGroup::mla: return "MLA mixers";
    case ParameterGroup::other_mixer: return "other mixers";
    case ParameterGroup::dense_ffn: return "dense feed-forward";
    case ParameterGroup::router: return "routers";
    case ParameterGroup::experts: return "routed experts";
    case ParameterGroup::shared_experts: return "shared experts";
    case ParameterGroup::norms: return "norms";
  }
  return "?";
}

ParameterCounts count_parameters(const KimiLinear& model) {
  const ModelConfig& config = model.config();
  ParameterCounts counts;
  for (const TensorRow& row : model.table().rows()) {
    int64_t n = 1;
    for (int64_t d : row.shape) n *= d;
    const ParameterGroup group = group_of(row.name, config);
    const DType dtype = !row.matrix ? DType::f32 : row.matrix->w ? row.matrix->w.dtype : config.dtype;
    Count c{.parameters = n, .bytes = n * size_of(dtype), .active_parameters = n};
    if (group == ParameterGroup::embedding && !config.tie_embeddings) c.active_parameters = n / config.vocab_size;
    if (group == ParameterGroup::experts) c.active_parameters = n * config.moe.experts_per_token / config.moe.experts;
    c.active_bytes = c.active_parameters * size_of(dtype);
    add(counts.groups[static_cast<size_t>(group)], c);
    add(counts.total, c);
  }
  return counts;
}

}  // namespace linnet::model
