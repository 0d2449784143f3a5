#include "model/cost.h"

#include <algorithm>

#include "model/parameter_counts.h"
#include "ops/linear_attn/linear_attn.h"

namespace linnet::model {

PrefillCost prefill_cost(const KimiLinear& model, int64_t n_past, int64_t n_new) {
  const ModelConfig& c = model.config();
  const ParameterCounts counts = count_parameters(model);
  const auto layers_of = [&](const char* mixer) {
    return static_cast<double>(std::count(c.mixers.begin(), c.mixers.end(), mixer));
  };
  const auto active = [&](ParameterGroup g) { return static_cast<double>(counts.of(g).active_parameters); };
  const double head = static_cast<double>(c.vocab_size) * static_cast<double>(c.hidden);
  double used = 0;
  for (ParameterGroup g :
       {ParameterGroup::kda, ParameterGroup::mla, ParameterGroup::other_mixer, ParameterGroup::dense_ffn,
        ParameterGroup::router, ParameterGroup::experts, ParameterGroup::shared_experts})
    used += active(g);

  const auto n = static_cast<double>(n_new), past = static_cast<double>(n_past);
  const auto D = static_cast<double>(c.kda.head_dim), H = static_cast<double>(c.kda.heads),
             L = static_cast<double>(ops::kLinearAttnChunk);
  const double pairs = n * past + n * (n + 1) / 2;
  return {.products = 2 * (used * n + head),
          .kda_core = layers_of("kda") * n * H * (6 * D * D + 5 * L * D + L * L / 3),
          .mla_attention = layers_of("mla") * pairs * 2 * static_cast<double>(c.mla.heads) *
                           static_cast<double>(c.mla.query_dim() + c.mla.value_dim)};
}

DecodeCost decode_cost(const KimiLinear& model, int64_t n_past) {
  DecodeCost cost{.weight_bytes = count_parameters(model).total.active_bytes};
  for (const auto& layer : model.state_specs())
    for (const StateSpec& spec : layer)
      cost.state_bytes += spec.bytes() * (spec.lifetime == Lifetime::per_token ? n_past : 2);
  return cost;
}

}  // namespace linnet::model
