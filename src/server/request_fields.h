// What a client asks of /v1/chat/completions and /v1/completions, as its JSON says it: checked for type and range, but not yet
// against a model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "formats/chat_template.h"
#include "formats/json_fields.h"

namespace linnet::server {

enum class ResponseFormat : uint8_t { text, json_object, json_schema };

constexpr int64_t kMaxChoices = 128, kMaxTopLogprobs = 20;
// Of a body, whatever its length: what reading it takes is bounded, too. Four million token ids fit.
constexpr formats::JsonLimits kBodyLimits = {.members = 4096, .parts = 1 << 18, .values = 1 << 22};
constexpr size_t kMaxPrompts = 2048, kMaxStops = 64, kMaxStopBytes = 1024;

// What both have in common. Absent: the server's defaults.
struct CommonFields {
  std::optional<std::string> model;
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k, max_tokens;
  std::optional<uint64_t> seed;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<std::string> stops;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false, skip_special_tokens = true;
  int64_t n = 1;
  int64_t top_logprobs = -1;  // -1: none wanted, 0: of the drawn tokens
  bool stream = false, include_usage = false;
  ResponseFormat format = ResponseFormat::text;
  std::string schema;                // of json_schema
  std::vector<std::string> unknown;  // fields that nobody here knows
};

struct ChatFields : CommonFields {
  std::vector<formats::ChatMessage> messages;
  bool add_generation_prompt = true;
  std::string variables_json;  // chat_template_kwargs; "" = none
  std::string tools_json;      // an array; "" = none
  std::string tool_choice_json;
  bool parallel_tool_calls = true;
};

using Prompt = std::variant<std::string, std::vector<int32_t>>;

struct CompletionFields : CommonFields {
  std::vector<Prompt> prompts;
  bool echo = false, parse_special = false;
};

// Throw FormatError (JsonFieldError where a field is to blame), ApiError for what is refused.
ChatFields parse_chat(std::string_view body);
CompletionFields parse_completion(std::string_view body);

// The common part: fills `fields` but for what differs between the two (logprobs). `text` is that of the body.
void parse_common(const formats::JsonFields& body, std::string_view text, CommonFields& fields);

// 400 that blames a field.
[[noreturn]] void refuse_field(const std::string& field, const std::string& problem);

}  // namespace linnet::server
