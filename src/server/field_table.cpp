#include "server/field_table.h"

#include <algorithm>

#include "core/text.h"
#include "server/api_error.h"

namespace linnet::server {
namespace {

using enum Endpoint;
using enum FieldUse;

constexpr const char* kOldTools = "expected tools in its place";
constexpr const char* kText = "this model reads and writes text alone";
constexpr const char* kSchema = "expected response_format with a JSON schema";
constexpr const char* kNone = "there is nothing like it here";

constexpr Field kFields[] = {
    // What is asked
    {"model", both, read},
    {"messages", chat, read},
    {"prompt", completions, read},
    {"echo", completions, read},
    {"add_generation_prompt", chat, read},
    {"chat_template_kwargs", chat, read},
    {"tools", chat, read},
    {"tool_choice", chat, read},
    {"parallel_tool_calls", chat, read},
    {"parse_special", completions, read},
    // How the answer is drawn
    {"temperature", both, read},
    {"top_p", both, read},
    {"top_k", both, read},
    {"min_p", both, read},
    {"presence_penalty", both, read},
    {"frequency_penalty", both, read},
    {"repetition_penalty", both, read},
    {"logit_bias", both, read},
    {"seed", both, read},
    {"n", both, read},
    // Where it ends, what it may be
    {"max_tokens", both, read},
    {"max_completion_tokens", chat, read},
    {"stop", both, read},
    {"stop_token_ids", both, read},
    {"ignore_eos", both, read},
    {"skip_special_tokens", both, read},
    {"response_format", both, read},
    // How it comes
    {"stream", both, read},
    {"stream_options", both, read},
    {"logprobs", both, read},
    {"top_logprobs", chat, read},
    // What changes no answer here
    {"user", both, ignored},
    {"metadata", both, ignored},
    {"store", both, ignored},
    {"service_tier", both, ignored},
    {"safety_identifier", both, ignored},
    {"prompt_cache_key", both, ignored},
    {"prompt_cache_retention", both, ignored},
    {"prediction", chat, ignored},
    {"cache_prompt", both, ignored},
    {"priority", both, ignored},
    {"request_id", both, ignored},
    {"add_special_tokens", both, ignored},
    {"spaces_between_special_tokens", both, ignored},
    {"include_stop_str_in_output", both, refused, "false", kNone},
    // What would change it
    {"best_of", completions, refused, "1", "expected n, all of which are returned"},
    {"suffix", completions, refused, "\"\"", "the model continues text, it does not fill gaps"},
    {"functions", chat, refused, "[]", kOldTools},
    {"function_call", chat, refused, "\"none\"", kOldTools},
    {"modalities", chat, refused, "[\"text\"]", kText},
    {"audio", chat, refused, nullptr, kText},
    {"web_search_options", chat, refused, nullptr, kNone},
    {"reasoning_effort", chat, refused, "\"none\"", kNone},
    {"verbosity", chat, refused, "\"medium\"", kNone},
    {"continue_final_message", chat, refused, "false", kNone},
    {"chat_template", chat, refused, nullptr, "the template is the checkpoint's"},
    {"use_beam_search", both, refused, "false", kNone},
    {"length_penalty", both, refused, "1.0", kNone},
    {"early_stopping", both, refused, "false", kNone},
    {"min_tokens", both, refused, "0", kNone},
    {"typical_p", both, refused, "1.0", kNone},
    {"mirostat", both, refused, "0", kNone},
    {"bad_words", both, refused, "[]", "expected logit_bias"},
    {"allowed_token_ids", both, refused, nullptr, "expected logit_bias"},
    {"truncate_prompt_tokens", both, refused, nullptr, kNone},
    {"prompt_logprobs", both, refused, nullptr, "expected echo and logprobs of /v1/completions"},
    {"guided_json", both, refused, nullptr, kSchema},
    {"guided_regex", both, refused, nullptr, kSchema},
    {"guided_choice", both, refused, nullptr, kSchema},
    {"guided_grammar", both, refused, nullptr, kSchema},
    {"structured_outputs", both, refused, nullptr, kSchema},
    {"grammar", both, refused, "\"\"", kSchema},
    {"json_schema", both, refused, nullptr, kSchema},
};

bool holds(Endpoint set, Endpoint one) { return (static_cast<int>(set) & static_cast<int>(one)) != 0; }

// 1 and 1.0 ask for the same.
bool is_neutral(const formats::JsonFields& body, const Field& field) {
  if (!field.neutral) return false;
  const std::string neutral = field.neutral, json = *body.optional_json(field.name);
  return json == neutral || json + ".0" == neutral || json == neutral + ".0";
}

}  // namespace

std::span<const Field> field_table() { return kFields; }

void refuse_fields(const formats::JsonFields& body, Endpoint endpoint) {
  for (const Field& field : kFields) {
    if (field.use != refused || !holds(field.where, endpoint) || !body.has(field.name) || is_neutral(body, field))
      continue;
    throw ApiError(400, cat(field.name, ": not supported: ", field.why), field.name, "unsupported_parameter");
  }
}

std::vector<std::string> unknown_fields(const formats::JsonFields& body, Endpoint endpoint) {
  std::vector<std::string> unknown;
  for (const std::string& key : body.keys()) {
    const bool known = std::any_of(std::begin(kFields), std::end(kFields),
                                   [&](const Field& f) { return holds(f.where, endpoint) && key == f.name; });
    if (!known) unknown.push_back(key);
  }
  return unknown;
}

}  // namespace linnet::server
