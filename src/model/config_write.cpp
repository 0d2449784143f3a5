// ModelConfig -> config.json in the published form, and the text that identifies an architecture.
#include <nlohmann/json.hpp>

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"
#include "model/config.h"

namespace linnet::model {
namespace {

using Json = nlohmann::ordered_json;

const char* published_dtype(DType t) { return t == DType::bf16 ? "bfloat16" : t == DType::f16 ? "float16" : "float32"; }

// The decimal that a reader rounds to the same float: 2.446, not 2.4460000991821289.
double shortest(float x) {
  for (int digits = 6; digits < 9; ++digits) {
    char text[32];
    std::snprintf(text, sizeof text, "%.*g", digits, static_cast<double>(x));
    if (std::strtof(text, nullptr) == x) return std::strtod(text, nullptr);
  }
  return static_cast<double>(x);
}

Json linear_attn_config(const ModelConfig& c) {
  std::vector<int64_t> kda, full, gdn;
  for (int64_t layer = 0; layer < c.n_layers(); ++layer) {
    const std::string& mixer = c.mixers[static_cast<size_t>(layer)];
    if (mixer != "kda" && mixer != "mla" && mixer != "gdn")
      throw InvalidArgument(cat("config.json: layer ", layer, ": can say kda, gdn and mla, not ", mixer));
    (mixer == "kda" ? kda : mixer == "gdn" ? gdn : full).push_back(layer + 1);
  }
  Json json = {{"kda_layers", kda},
               {"full_attn_layers", full},
               {"num_heads", c.kda.heads},
               {"head_dim", c.kda.head_dim},
               {"short_conv_kernel_size", c.kda.conv_width}};
  if (!gdn.empty()) json["gdn_layers"] = gdn;
  if (c.kda.gate == ops::DecayGateKind::lower_bound) json["gate_lower_bound"] = shortest(c.kda.gate_lower_bound);
  return json;
}

void add_moe(const ModelConfig& c, Json& json) {
  const auto first = std::find(c.ffns.begin(), c.ffns.end(), FfnKind::moe);
  if (std::find(first, c.ffns.end(), FfnKind::dense) != c.ffns.end())
    throw InvalidArgument("config.json: the published form has its dense feed-forward layers first");
  json.update({{"num_experts", c.moe.experts},
               {"num_experts_per_token", c.moe.experts_per_token},
               {"num_shared_experts", c.moe.shared_experts},
               {"moe_intermediate_size", c.moe.width},
               {"first_k_dense_replace", first - c.ffns.begin()},
               {"moe_layer_freq", 1},
               {"moe_router_activation_func", c.moe.score == ops::RouterScore::sigmoid ? "sigmoid" : "softmax"},
               {"moe_renormalize", c.moe.renormalize},
               {"routed_scaling_factor", shortest(c.moe.scaling)},
               {"num_expert_group", c.moe.groups},
               {"topk_group", c.moe.topk_groups},
               {"use_grouped_topk", true}});
}

}  // namespace

std::string config_json(const ModelConfig& c) {
  Json json = {{"architectures", {"KimiLinearForCausalLM"}},
               {"model_type", "kimi_linear"},
               {"vocab_size", c.vocab_size},
               {"hidden_size", c.hidden},
               {"num_hidden_layers", c.n_layers()},
               {"hidden_act", "silu"},
               {"rms_norm_eps", shortest(c.norm_eps)},
               {"initializer_range", shortest(c.initializer_range)},
               {"tie_word_embeddings", c.tie_embeddings},
               {"model_max_length", c.context},
               {"num_attention_heads", c.mla.heads},
               {"num_key_value_heads", c.mla.heads},
               {"q_lora_rank", nullptr},
               {"kv_lora_rank", c.mla.latent_rank},
               {"qk_nope_head_dim", c.mla.key_dim},
               {"qk_rope_head_dim", c.mla.shared_key_dim},
               {"v_head_dim", c.mla.value_dim},
               {"mla_use_nope", true},
               {"linear_attn_config", linear_attn_config(c)},
               {"num_nextn_predict_layers", 0},
               {"dtype", published_dtype(c.dtype)}};
  if (c.dense_width > 0) json["intermediate_size"] = c.dense_width;
  if (std::count(c.ffns.begin(), c.ffns.end(), FfnKind::moe) > 0) add_moe(c, json);
  else json["first_k_dense_replace"] = c.n_layers();  // transformers takes an absent one for 1
  // Null, not absent: for absent ones readers elsewhere take the published vocabulary's.
  json["bos_token_id"] = c.bos_id >= 0 ? Json(c.bos_id) : Json(nullptr);
  json["pad_token_id"] = c.pad_id >= 0 ? Json(c.pad_id) : Json(nullptr);
  json["eos_token_id"] = c.eos_ids.empty()       ? Json(nullptr)
                         : c.eos_ids.size() == 1 ? Json(c.eos_ids[0])
                                                 : Json(c.eos_ids);
  return json.dump(2) + "\n";
}

std::string architecture_text(const ModelConfig& c) {
  std::string layers;
  for (size_t l = 0; l < c.mixers.size(); ++l)
    layers += cat(l ? "," : "", c.mixers[l], c.ffns[l] == FfnKind::moe ? "+moe" : "");
  const ParityOptions& p = c.parity;
  return cat("kimi_linear V", c.vocab_size, " C", c.hidden, " [", layers, "] kda ", c.kda.heads, "x", c.kda.head_dim,
             " conv", c.kda.conv_width, " gate", static_cast<int>(c.kda.gate), ":", c.kda.gate_lower_bound, " mla ",
             c.mla.heads, "x(", c.mla.key_dim, "+", c.mla.shared_key_dim, ",", c.mla.value_dim, ") R",
             c.mla.latent_rank, " moe ", c.moe.experts, "/", c.moe.experts_per_token, "+", c.moe.shared_experts, "x",
             c.moe.width, " dense ", c.dense_width, " parity ", p.biased_router_weights, p.round_norm_before_weight,
             p.round_decay_to_bf16, ":", p.latent_norm_eps);
}

}  // namespace linnet::model
