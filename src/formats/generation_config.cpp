#include "formats/generation_config.h"

#include <limits>

#include "formats/json_fields.h"

namespace linnet::formats {

GenerationConfig GenerationConfig::load(const std::filesystem::path& dir) {
  GenerationConfig config;
  const std::filesystem::path file = dir / "generation_config.json";
  if (!exists(file)) return config;
  const JsonFields fields = JsonFields::read(file);

  constexpr int64_t kMaxId = std::numeric_limits<TokenId>::max(), kMaxCount = int64_t{1} << 40;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto id = [&](const char* key) -> std::optional<TokenId> {
    const auto value = fields.optional_integer(key, 0, kMaxId);
    return value ? std::optional(static_cast<TokenId>(*value)) : std::nullopt;
  };
  if (fields.kind("eos_token_id") == JsonKind::array) {
    for (int64_t eos : fields.integers("eos_token_id", 0, kMaxId)) config.eos_ids.push_back(static_cast<TokenId>(eos));
  } else if (const auto eos = id("eos_token_id")) {
    config.eos_ids = {*eos};
  }
  config.bos_id = id("bos_token_id");
  config.pad_id = id("pad_token_id");
  config.do_sample = fields.optional_boolean("do_sample");
  config.temperature = fields.optional_number("temperature", 0, kInfinity);
  config.top_p = fields.optional_number("top_p", 0, 1);
  config.min_p = fields.optional_number("min_p", 0, 1);
  config.repetition_penalty = fields.optional_number("repetition_penalty", 0, kInfinity);
  config.top_k = fields.optional_integer("top_k", 0, kMaxCount);
  config.max_new_tokens = fields.optional_integer("max_new_tokens", 0, kMaxCount);
  config.ignored_keys = fields.unread_keys();
  return config;
}

}  // namespace linnet::formats
