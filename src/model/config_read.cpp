// config.json -> ModelConfig: the published form, the one that transformers 5.17 writes, and both at once, which it writes of
// a model that it has read in the published form.
#include <algorithm>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "model/config.h"

namespace linnet::model {
namespace {

using formats::JsonFields;

constexpr int64_t kMaxExtent = int64_t{1} << 24;  // of any width, count or vocabulary
constexpr int64_t kMaxLayers = 4096, kMaxContext = int64_t{1} << 40;

// Fields of Kimi K3 that change the computation and are not implemented here.
constexpr const char* kK3Fields[] = {"attn_res_block_size",  "routed_expert_hidden_size",
                                     "latent_moe_use_norm",  "mla_use_output_gate",
                                     "activation_situ_beta", "activation_situ_linear_beta",
                                     "dsa_config",           "topk_method",
                                     "text_config",          "vision_config"};

// Fields that say nothing about the numbers a forward pass computes.
constexpr const char* kHarmlessFields[] = {"architectures",
                                           "auto_map",
                                           "model_type",
                                           "transformers_version",
                                           "use_cache",
                                           "head_dim",
                                           "rope_theta",
                                           "torch_dtype",
                                           "attention_dropout",
                                           "pretraining_tp",
                                           "_name_or_path",
                                           "_attn_implementation",
                                           "attn_implementation",
                                           "output_attentions",
                                           "output_hidden_states",
                                           "return_dict",
                                           "chunk_size_feed_forward",
                                           "id2label",
                                           "label2id",
                                           "tokenizer_class",
                                           "problem_type",
                                           "use_grouped_topk",
                                           "ep_size",
                                           "aux_loss_alpha",
                                           "seq_aux",
                                           "is_encoder_decoder",
                                           "sep_token_id",
                                           "unk_token_id"};

// The value of the first of several names that the file has: published name, then aliases.
int64_t integer_of(const JsonFields& f, std::initializer_list<const char*> names, int64_t low, int64_t high) {
  for (const char* name : names)
    if (f.has(name)) return f.integer(name, low, high);
  return f.integer(*names.begin(), low, high);  // throws, naming the published name
}
int64_t integer_of(const JsonFields& f, std::initializer_list<const char*> names, int64_t low, int64_t high,
                   int64_t absent) {
  for (const char* name : names)
    if (f.has(name)) return f.integer(name, low, high);
  return absent;
}

void require_text(const JsonFields& f, const char* key, const char* expected) {
  if (f.has(key) && f.string(key) != expected) throw f.error(key, cat("\"", expected, "\""));
}
void require_bool(const JsonFields& f, const char* key, bool expected) {
  if (f.has(key) && f.boolean(key) != expected) throw f.error(key, expected ? "true" : "false");
}

void refuse_k3(const JsonFields& f) {
  for (const char* key : kK3Fields)
    if (f.has(key)) throw FormatError(cat(f.place(key), ": a field of Kimi K3, which is not supported"));
  if (f.has("q_lora_rank"))
    throw FormatError(cat(f.place("q_lora_rank"), ": low-rank queries (Kimi K3) are not supported, expected null"));
  f.ignore("q_lora_rank");
}

DType read_dtype(const JsonFields& f) {
  const std::string name = f.optional_string("dtype").value_or(f.optional_string("torch_dtype").value_or("bfloat16"));
  if (name == "bfloat16") return DType::bf16;
  if (name == "float32") return DType::f32;
  if (name == "float16") return DType::f16;
  throw f.error(f.has("dtype") ? "dtype" : "torch_dtype", "\"bfloat16\", \"float16\" or \"float32\"");
}

// The published form: linear_attn_config with 1-based lists that together name every layer once. gdn_layers is Linnet's addition.
void read_published_layers(const JsonFields& f, int64_t n_layers, ModelConfig& c) {
  const JsonFields linear = f.object("linear_attn_config");
  c.kda.heads = linear.integer("num_heads", 1, kMaxExtent);
  c.kda.head_dim = linear.integer("head_dim", 1, kMaxExtent);
  c.kda.conv_width = linear.integer("short_conv_kernel_size", 1, 8);
  if (linear.has("gate_lower_bound")) {
    c.kda.gate = ops::DecayGateKind::lower_bound;
    c.kda.gate_lower_bound = static_cast<float>(linear.number("gate_lower_bound", -5, -1e-6));
  }
  if (linear.optional_boolean("use_full_rank_gate").value_or(false))
    throw FormatError(cat(linear.place("use_full_rank_gate"), ": a field of Kimi K3, which is not supported"));
  c.mixers.assign(static_cast<size_t>(n_layers), "");
  for (const char* list : {"kda_layers", "full_attn_layers", "gdn_layers"}) {
    const bool extra = std::string_view(list) == "gdn_layers";
    if (extra && !linear.has(list)) continue;
    for (int64_t layer : linear.integers(list, 1, n_layers)) {
      std::string& mixer = c.mixers[static_cast<size_t>(layer - 1)];
      if (!mixer.empty()) throw FormatError(cat(linear.place(list), ": layer ", layer, " is listed twice"));
      mixer = extra ? "gdn" : std::string_view(list) == "kda_layers" ? "kda" : "mla";
    }
  }
  const auto missing = std::find(c.mixers.begin(), c.mixers.end(), "");
  if (missing != c.mixers.end())
    throw FormatError(cat(f.place("linear_attn_config"), ": layer ", missing - c.mixers.begin() + 1, " of ", n_layers,
                          " is in neither kda_layers nor full_attn_layers (the lists count from 1)"));
  const int64_t first_moe = f.optional_integer("first_k_dense_replace", 0, n_layers).value_or(0);
  const int64_t step = f.optional_integer("moe_layer_freq", 1, kMaxLayers).value_or(1);
  const bool any_moe = f.has("num_experts");
  for (int64_t layer = 0; layer < n_layers; ++layer)
    c.ffns.push_back(any_moe && layer >= first_moe && layer % step == 0 ? FfnKind::moe : FfnKind::dense);
}

// The form of transformers: one list of names for the mixers, one for the feed-forward parts.
void read_listed_layers(const JsonFields& f, int64_t n_layers, ModelConfig& c) {
  c.kda.heads = f.integer("linear_num_heads", 1, kMaxExtent);
  c.kda.head_dim = f.integer("linear_head_dim", 1, kMaxExtent);
  c.kda.conv_width = f.integer("linear_conv_kernel_dim", 1, 8);
  const auto names_of = [&](const char* key) {
    const std::vector<std::string> names = f.strings(key);
    if (static_cast<int64_t>(names.size()) != n_layers)
      throw f.error(key, cat("a list of ", n_layers, " names, one for each layer"));
    return names;
  };
  for (const std::string& name : names_of("layer_types")) {
    if (name != "linear_attention" && name != "full_attention")
      throw FormatError(cat(f.place("layer_types"), ": expected \"linear_attention\" or \"full_attention\", got \"",
                            printable(name, 60), "\""));
    c.mixers.push_back(name == "linear_attention" ? "kda" : "mla");
  }
  for (const std::string& name : names_of("mlp_layer_types")) {
    if (name != "dense" && name != "sparse")
      throw FormatError(
          cat(f.place("mlp_layer_types"), ": expected \"dense\" or \"sparse\", got \"", printable(name, 60), "\""));
    c.ffns.push_back(name == "dense" ? FfnKind::dense : FfnKind::moe);
  }
}

void read_layers(const JsonFields& f, int64_t n_layers, ModelConfig& c) {
  if (!f.has("linear_attn_config")) return read_listed_layers(f, n_layers, c);
  read_published_layers(f, n_layers, c);
  if (!f.has("layer_types")) return;
  ModelConfig listed;
  read_listed_layers(f, n_layers, listed);
  const auto agree = [&](const char* key, bool equal) {
    if (!equal) throw FormatError(cat(f.place(key), ": contradicts linear_attn_config or first_k_dense_replace"));
  };
  agree("linear_num_heads", listed.kda.heads == c.kda.heads);
  agree("linear_head_dim", listed.kda.head_dim == c.kda.head_dim);
  agree("linear_conv_kernel_dim", listed.kda.conv_width == c.kda.conv_width);
  agree("layer_types", listed.mixers == c.mixers);
  agree("mlp_layer_types", listed.ffns == c.ffns);
}

void read_mla(const JsonFields& f, MlaConfig& mla) {
  mla.heads = f.integer("num_attention_heads", 1, kMaxExtent);
  mla.latent_rank = f.integer("kv_lora_rank", 1, kMaxExtent);
  mla.key_dim = f.integer("qk_nope_head_dim", 1, kMaxExtent);
  mla.shared_key_dim = f.integer("qk_rope_head_dim", 0, kMaxExtent);
  mla.value_dim = f.integer("v_head_dim", 1, kMaxExtent);
  if (f.has("num_key_value_heads") && f.integer("num_key_value_heads", 1, kMaxExtent) != mla.heads)
    throw f.error("num_key_value_heads", cat(mla.heads, " (num_attention_heads)"));
  if (f.has("qk_head_dim") && f.integer("qk_head_dim", 1, kMaxExtent) != mla.query_dim())
    throw f.error("qk_head_dim", cat(mla.query_dim(), " (qk_nope_head_dim + qk_rope_head_dim)"));
  require_bool(f, "mla_use_nope", true);
  require_bool(f, "attention_bias", false);
  if (f.has("rope_scaling")) throw f.error("rope_scaling", "null (the model has no positions)");
}

void read_moe(const JsonFields& f, MoeConfig& moe) {
  moe.experts = integer_of(f, {"num_experts", "n_routed_experts", "num_local_experts"}, 1, 1 << 16);
  moe.experts_per_token = integer_of(f, {"num_experts_per_token", "num_experts_per_tok"}, 1, moe.experts);
  moe.shared_experts = integer_of(f, {"num_shared_experts", "n_shared_experts"}, 0, 1 << 10, 0);
  moe.width = f.integer("moe_intermediate_size", 1, kMaxExtent);
  moe.scaling = static_cast<float>(f.optional_number("routed_scaling_factor", 1e-6, 1e6).value_or(1));
  moe.groups = static_cast<int>(integer_of(f, {"num_expert_group", "n_group"}, 1, moe.experts, 1));
  moe.topk_groups = static_cast<int>(f.optional_integer("topk_group", 1, moe.groups).value_or(1));
  moe.renormalize = f.optional_boolean("moe_renormalize").value_or(f.optional_boolean("norm_topk_prob").value_or(true));
  if (moe.experts % moe.groups != 0)
    throw f.error("num_expert_group", cat("a divisor of the ", moe.experts, " experts"));
  if (moe.experts_per_token > moe.experts / moe.groups * moe.topk_groups)
    throw f.error("topk_group", cat("groups that hold at least the ", moe.experts_per_token, " experts of a token"));
  const std::string score = f.optional_string("moe_router_activation_func").value_or("sigmoid");
  if (score != "sigmoid" && score != "softmax")
    throw f.error("moe_router_activation_func", "\"sigmoid\" or \"softmax\"");
  moe.score = score == "sigmoid" ? ops::RouterScore::sigmoid : ops::RouterScore::softmax;
}

void read_ids(const JsonFields& f, ModelConfig& c) {
  const int64_t last = kMaxExtent;
  c.bos_id = f.optional_integer("bos_token_id", 0, last).value_or(-1);
  c.pad_id = f.optional_integer("pad_token_id", 0, last).value_or(-1);
  if (f.kind("eos_token_id") == formats::JsonKind::array) c.eos_ids = f.integers("eos_token_id", 0, last);
  else if (f.has("eos_token_id")) c.eos_ids = {f.integer("eos_token_id", 0, last)};
}

}  // namespace

ModelConfig read_config(const std::filesystem::path& file) { return read_config(JsonFields::read(file)); }

ModelConfig read_config(const JsonFields& f) {
  refuse_k3(f);
  ModelConfig c;
  c.vocab_size = f.integer("vocab_size", 1, kMaxExtent);
  c.hidden = f.integer("hidden_size", 1, kMaxExtent);
  c.context = integer_of(f, {"model_max_length", "max_position_embeddings"}, 1, kMaxContext);
  c.norm_eps = static_cast<float>(f.number("rms_norm_eps", 0, 1));
  c.tie_embeddings = f.optional_boolean("tie_word_embeddings").value_or(false);
  c.initializer_range = static_cast<float>(f.optional_number("initializer_range", 0, 100).value_or(0.02));
  c.dtype = read_dtype(f);
  require_text(f, "hidden_act", "silu");
  if (f.has("num_nextn_predict_layers") && f.integer("num_nextn_predict_layers", 0, kMaxLayers) != 0)
    throw f.error("num_nextn_predict_layers", "0");

  const int64_t n_layers = f.integer("num_hidden_layers", 1, kMaxLayers);
  read_layers(f, n_layers, c);
  if (std::count(c.ffns.begin(), c.ffns.end(), FfnKind::dense) > 0)
    c.dense_width = f.integer("intermediate_size", 1, kMaxExtent);
  read_mla(f, c.mla);
  if (std::count(c.ffns.begin(), c.ffns.end(), FfnKind::moe) > 0) read_moe(f, c.moe);
  read_ids(f, c);

  for (const char* key : kHarmlessFields) f.ignore(key);
  for (const char* key : {"intermediate_size", "first_k_dense_replace", "moe_layer_freq"})
    f.ignore(key);  // said by the layer lists
  for (const std::string& key : f.keys())
    if (f.kind(key) == formats::JsonKind::null) f.ignore(key);
  for (const std::string& key : f.unread_keys())
    throw FormatError(cat(f.place(key), ": an unknown field, which may change what the model computes"));
  return c;
}

}  // namespace linnet::model
