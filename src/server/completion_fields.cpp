// The fields of /v1/completions.
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "server/api_error.h"
#include "server/field_table.h"
#include "server/request_fields.h"

namespace linnet::server {
namespace {

using formats::JsonFields;
using formats::JsonKind;
using nlohmann::json;

constexpr const char* kExpected = "text, token ids, a list of texts or a list of lists of token ids";

[[noreturn]] void refuse_prompt() { refuse_field("prompt", cat("expected ", kExpected)); }

std::vector<int32_t> ids_of(const json& array) {
  std::vector<int32_t> ids;
  ids.reserve(array.size());
  for (const json& id : array) {
    const bool fits = id.is_number_unsigned() && id.get<uint64_t>() <= INT32_MAX;
    if (!fits) refuse_prompt();
    ids.push_back(id.get<int32_t>());
  }
  if (ids.empty()) refuse_field("prompt", "expected at least one token");
  return ids;
}

std::vector<Prompt> parse_prompts(const JsonFields& body) {
  if (body.kind("prompt") == JsonKind::string) return {body.string("prompt")};
  if (body.kind("prompt") != JsonKind::array) throw body.error("prompt", kExpected);
  const json array = json::parse(*body.optional_json("prompt"));
  if (array.empty()) refuse_field("prompt", "expected at least one");
  if (array[0].is_number()) return {ids_of(array)};
  if (array.size() > kMaxPrompts) refuse_field("prompt", cat("expected at most ", kMaxPrompts, ", got ", array.size()));
  std::vector<Prompt> prompts;
  for (const json& prompt : array) {
    if (prompt.type() != array[0].type()) refuse_prompt();
    if (prompt.is_string()) prompts.push_back(prompt.get<std::string>());
    else if (prompt.is_array()) prompts.push_back(ids_of(prompt));
    else refuse_prompt();
  }
  return prompts;
}

}  // namespace

CompletionFields parse_completion(std::string_view text) {
  const JsonFields body = JsonFields::parse(text, "body", kBodyLimits);
  refuse_fields(body, Endpoint::completions);
  CompletionFields fields;
  parse_common(body, text, fields);
  for (std::string& name : unknown_fields(body, Endpoint::completions)) fields.unknown.push_back(std::move(name));
  fields.prompts = parse_prompts(body);
  fields.top_logprobs = body.optional_integer("logprobs", 0, kMaxTopLogprobs).value_or(-1);
  fields.echo = body.optional_boolean("echo").value_or(false);
  fields.parse_special = body.optional_boolean("parse_special").value_or(false);
  return fields;
}

}  // namespace linnet::server
