// config.json in its forms, and everything that must be refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "formats/json_fields.h"
#include "model/config.h"
#include "model/kimi_linear.h"

namespace linnet::model {
namespace {

using Json = nlohmann::json;

const std::string kSource = LINNET_SOURCE_DIR;

Json json_of(const std::string& file) { return Json::parse(std::ifstream(kSource + "/" + file)); }
ModelConfig parse(const Json& json) { return read_config(formats::JsonFields::parse(json.dump(), "config.json")); }

std::string refusal(const Json& json) {
  try {
    parse(json);
  } catch (const FormatError& e) { return e.what(); }
  return "accepted";
}

TEST(config, published_form) {
  const ModelConfig c = read_config(kSource + "/examples/configs/kimi-linear-48b.json");
  EXPECT_EQ(c.n_layers(), 27);
  EXPECT_EQ(std::count(c.mixers.begin(), c.mixers.end(), "kda"), 20);
  for (size_t l : {3u, 7u, 11u, 15u, 19u, 23u, 26u}) EXPECT_EQ(c.mixers[l], "mla") << l;
  EXPECT_EQ(c.ffns[0], FfnKind::dense);
  EXPECT_EQ(std::count(c.ffns.begin(), c.ffns.end(), FfnKind::moe), 26);
  EXPECT_EQ(c.eos_ids, std::vector<int64_t>{163586});
  EXPECT_EQ(c.mla.cache_dim(), 576);
  EXPECT_FLOAT_EQ(c.moe.scaling, 2.446f);
  EXPECT_EQ(c.context, 1 << 20);
  EXPECT_EQ(KimiLinear(c, DType::bf16).table().parameters(), 49122681728);  // the published count
}

TEST(config, form_of_transformers) {
  const ModelConfig c = read_config(kSource + "/tests/data/tiny-fp32/config.json");
  EXPECT_THAT(c.mixers, testing::ElementsAre("kda", "kda", "kda", "kda", "mla"));
  EXPECT_THAT(c.ffns, testing::ElementsAre(FfnKind::dense, FfnKind::moe, FfnKind::moe, FfnKind::moe, FfnKind::moe));
  EXPECT_EQ(c.kda.head_dim, 16);
  EXPECT_EQ(c.mla.query_dim(), 24);
  EXPECT_EQ(c.dtype, DType::f32);
}

// What transformers 5.17 writes of a model that it has read in the published form.
TEST(config, both_forms_at_once) {
  Json json = json_of("examples/configs/kimi-linear-48b.json");
  const ModelConfig published = parse(json);
  for (const std::string& mixer : published.mixers)
    json["layer_types"].push_back(mixer == "kda" ? "linear_attention" : "full_attention");
  for (FfnKind ffn : published.ffns) json["mlp_layer_types"].push_back(ffn == FfnKind::moe ? "sparse" : "dense");
  json.update({{"linear_num_heads", 32}, {"linear_head_dim", 128}, {"linear_conv_kernel_dim", 4}});
  EXPECT_EQ(architecture_text(parse(json)), architecture_text(published));
  for (const char* key : {"linear_num_heads", "linear_head_dim", "linear_conv_kernel_dim"}) {
    Json changed = json;
    changed[key] = changed[key].get<int>() + 1;
    EXPECT_EQ(refusal(changed),
              std::string("config.json: ") + key + ": contradicts linear_attn_config or first_k_dense_replace");
  }
  for (const char* key : {"layer_types", "mlp_layer_types"}) {
    Json changed = json;
    std::swap(changed[key][0], changed[key][3]);
    EXPECT_EQ(refusal(changed),
              std::string("config.json: ") + key + ": contradicts linear_attn_config or first_k_dense_replace");
  }
}

TEST(config, what_is_written_reads_back) {
  for (const char* file : {"examples/configs/kimi-linear-48b.json", "tests/data/tiny-fp32/config.json"}) {
    const ModelConfig c = read_config(kSource + "/" + file);
    const ModelConfig again = parse(Json::parse(config_json(c)));
    EXPECT_EQ(config_json(again), config_json(c));
    EXPECT_EQ(architecture_text(again), architecture_text(c));
    EXPECT_EQ(again.eos_ids, c.eos_ids);
    EXPECT_EQ(again.context, c.context);
  }
}

// Readers elsewhere take layers that no field calls dense for experts.
TEST(config, layers_without_experts_are_written_as_dense) {
  ModelConfig c = read_config(kSource + "/examples/configs/tiny.json");
  std::fill(c.ffns.begin(), c.ffns.end(), FfnKind::dense);
  const Json written = Json::parse(config_json(c));
  EXPECT_EQ(written["first_k_dense_replace"], c.n_layers());
  EXPECT_FALSE(written.contains("num_experts"));
  EXPECT_EQ(parse(written).ffns, c.ffns);
}

TEST(config, missing_tokens_are_written_as_null) {
  ModelConfig c = read_config(kSource + "/examples/configs/tiny.json");
  c.bos_id = c.pad_id = -1, c.eos_ids.clear();
  const Json written = Json::parse(config_json(c));
  for (const char* key : {"bos_token_id", "pad_token_id", "eos_token_id"})
    EXPECT_TRUE(written.contains(key) && written[key].is_null()) << key;
  const ModelConfig again = parse(written);
  EXPECT_EQ(again.bos_id, -1);
  EXPECT_EQ(again.pad_id, -1);
  EXPECT_TRUE(again.eos_ids.empty());
}

TEST(config, lower_bounded_gate) {
  Json json = json_of("examples/configs/kimi-linear-48b.json");
  json["linear_attn_config"]["gate_lower_bound"] = -5.0;
  const ModelConfig c = parse(json);
  EXPECT_EQ(c.kda.gate, ops::DecayGateKind::lower_bound);
  EXPECT_EQ(c.kda.gate_lower_bound, -5.f);
  EXPECT_EQ(parse(Json::parse(config_json(c))).kda.gate_lower_bound, -5.f);
  json["linear_attn_config"]["gate_lower_bound"] = -6.0;
  EXPECT_THAT(refusal(json), testing::HasSubstr("linear_attn_config.gate_lower_bound"));
}

TEST(config, kimi_k3_is_refused_by_the_name_of_the_field) {
  const std::pair<const char*, Json> fields[] = {{"attn_res_block_size", 12},   {"routed_expert_hidden_size", 3584},
                                                 {"mla_use_output_gate", true}, {"q_lora_rank", 1536},
                                                 {"activation_situ_beta", 4.0}, {"latent_moe_use_norm", true}};
  for (const auto& [key, value] : fields) {
    Json json = json_of("examples/configs/kimi-linear-48b.json");
    json[key] = value;
    EXPECT_THAT(refusal(json), testing::AllOf(testing::HasSubstr(key), testing::HasSubstr("Kimi K3")));
  }
  Json json = json_of("examples/configs/kimi-linear-48b.json");
  json["linear_attn_config"]["use_full_rank_gate"] = true;
  EXPECT_THAT(refusal(json), testing::HasSubstr("linear_attn_config.use_full_rank_gate: a field of Kimi K3"));
  json["linear_attn_config"]["use_full_rank_gate"] = false;
  EXPECT_EQ(refusal(json), "accepted");
}

TEST(config, bad_values_are_named) {
  const std::tuple<const char*, Json, const char*> cases[] = {
      {"hidden_size", 0, "hidden_size: expected"},
      {"hidden_size", int64_t{1} << 60, "got 1152921504606846976"},
      {"hidden_size", "big", "hidden_size"},
      {"num_hidden_layers", 28, "layer 28 of 28 is in neither"},
      {"num_hidden_layers", 0, "num_hidden_layers"},
      {"vocab_size", -1, "vocab_size"},
      {"hidden_act", "gelu", "hidden_act"},
      {"mla_use_nope", false, "mla_use_nope"},
      {"num_experts_per_token", 257, "num_experts_per_token"},
      {"num_key_value_heads", 8, "num_key_value_heads"},
      {"num_nextn_predict_layers", 1, "num_nextn_predict_layers"},
      {"rope_scaling", Json::object({{"type", "yarn"}}), "rope_scaling"},
      {"moe_router_activation_func", "tanh", "moe_router_activation_func"},
      {"num_expert_group", 3, "num_expert_group"},
      {"sliding_window", 4096, "sliding_window: an unknown field"},
      {"dtype", "int8", "dtype"},
      {"eos_token_id", "x", "eos_token_id"},
  };
  for (const auto& [key, value, text] : cases) {
    Json json = json_of("examples/configs/kimi-linear-48b.json");
    json[key] = value;
    EXPECT_THAT(refusal(json), testing::HasSubstr(text)) << key;
  }
  for (const char* key :
       {"hidden_size", "kv_lora_rank", "num_attention_heads", "rms_norm_eps", "moe_intermediate_size"}) {
    Json json = json_of("examples/configs/kimi-linear-48b.json");
    json.erase(key);
    EXPECT_THAT(refusal(json), testing::HasSubstr(key));
  }
  Json json = json_of("examples/configs/kimi-linear-48b.json");
  json["linear_attn_config"]["kda_layers"].push_back(4);
  EXPECT_THAT(refusal(json), testing::HasSubstr("layer 4 is listed twice"));
  json = json_of("examples/configs/kimi-linear-48b.json");
  json["linear_attn_config"]["kda_layers"].push_back(0);
  EXPECT_THAT(refusal(json), testing::HasSubstr("kda_layers"));
  json = json_of("tests/data/tiny-fp32/config.json");
  json["layer_types"][2] = "sliding_attention";
  EXPECT_THAT(refusal(json), testing::HasSubstr("sliding_attention"));
  json = json_of("tests/data/tiny-fp32/config.json");
  json["mlp_layer_types"].erase(0);
  EXPECT_THAT(refusal(json), testing::HasSubstr("mlp_layer_types"));
}

TEST(config, unknown_null_fields_are_harmless) {
  Json json = json_of("examples/configs/kimi-linear-48b.json");
  json["quantization_config"] = nullptr;
  EXPECT_EQ(refusal(json), "accepted");
}

}  // namespace
}  // namespace linnet::model
