// The architecture of one model: what config.json says, resolved to one meaning whatever form the file has.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "ops/decay_gate/decay_gate.h"
#include "ops/moe/moe.h"

namespace linnet::formats {
class JsonFields;
}

namespace linnet::model {

enum class FfnKind : uint8_t { dense, moe };

struct KdaConfig {
  int64_t heads = 0;       // H
  int64_t head_dim = 0;    // Dk = Dv, also the rank of the two gate projections
  int64_t conv_width = 4;  // W
  ops::DecayGateKind gate = ops::DecayGateKind::softplus;
  float gate_lower_bound = 0;  // lower_bound gate only
};

struct MlaConfig {
  int64_t heads = 0;           // H
  int64_t latent_rank = 0;     // R
  int64_t key_dim = 0;         // Dn: the part of a key that comes from the latent
  int64_t shared_key_dim = 0;  // Dr: the part shared by all heads (called "rope" in the file; never rotated)
  int64_t value_dim = 0;       // Dv
  int64_t query_dim() const { return key_dim + shared_key_dim; }
  int64_t cache_dim() const { return latent_rank + shared_key_dim; }
};

struct MoeConfig {
  int64_t experts = 0;            // E
  int64_t experts_per_token = 0;  // K
  int64_t shared_experts = 0;     // run as one expert of shared_experts * width
  int64_t width = 0;              // of one expert
  float scaling = 1;
  int groups = 1, topk_groups = 1;
  bool renormalize = true;
  ops::RouterScore score = ops::RouterScore::sigmoid;
};

// Where public implementations of Kimi Linear differ. The defaults are what vLLM, SGLang, MLX and llama.cpp compute and
// what transformers 5.17 computes; each option switches to what the published remote code does (docs/numerics.md).
struct ParityOptions {
  bool biased_router_weights = false;     // routing weights from score + bias instead of the score alone
  float latent_norm_eps = 0;              // eps of kv_a_layernorm; 0: rms_norm_eps of the config (remote code: 1e-6)
  bool round_norm_before_weight = false;  // RMSNorm rounds to bf16 before it multiplies by the weight
  bool round_decay_to_bf16 = false;       // A_log and dt_bias rounded to bf16, as a plain bf16 load does
};

struct ModelConfig {
  int64_t vocab_size = 0;  // V
  int64_t hidden = 0;      // C
  int64_t context = 0;     // longest sequence the model was made for, tokens
  float norm_eps = 1e-5f;
  bool tie_embeddings = false;
  int64_t dense_width = 0;          // of a dense feed-forward layer
  std::vector<std::string> mixers;  // per layer, a name of the registry: "kda", "mla"
  std::vector<FfnKind> ffns;        // per layer
  KdaConfig kda;
  MlaConfig mla;
  MoeConfig moe;
  int64_t bos_id = -1, pad_id = -1;  // -1: the file names none
  std::vector<int64_t> eos_ids;
  float initializer_range = 0.02f;
  DType dtype = DType::bf16;  // the type that the file names for the weights; synth and training write it
  ParityOptions parity;

  int64_t n_layers() const { return static_cast<int64_t>(mixers.size()); }
};

// Reads config.json of the published form (linear_attn_config with 1-based layer lists) or of the form that transformers 5.17
// writes (layer_types), told apart by their fields. Throws FormatError naming the file, the field, what was expected and what
// came, for a field that is out of range, contradicts another, belongs to Kimi K3, or is unknown and not null: it might
// change the computation.
ModelConfig read_config(const std::filesystem::path& file);
ModelConfig read_config(const formats::JsonFields& fields);

// The published form. What read_config reads back equals `config` (parity options are not part of the file).
std::string config_json(const ModelConfig& config);

// A short stable name of everything that shapes weights and states; equal text means states can be exchanged.
std::string architecture_text(const ModelConfig& config);

}  // namespace linnet::model
