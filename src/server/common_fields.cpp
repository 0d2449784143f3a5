// What both endpoints have in common: how an answer is drawn, where it ends, how it comes.
#include <algorithm>
#include <charconv>

#include "core/text.h"
#include "runtime/constraint/json_schema.h"
#include "server/api_error.h"
#include "server/request_fields.h"

namespace linnet::server {
namespace {

using formats::JsonFields;
using formats::JsonKind;

constexpr size_t kMaxBiases = 4096;

// stop: text, or several.
std::vector<std::string> parse_stops(const JsonFields& body) {
  std::vector<std::string> stops;
  if (body.kind("stop") == JsonKind::string) stops.push_back(body.string("stop"));
  else stops = body.optional_strings("stop").value_or(std::vector<std::string>());
  if (stops.size() > kMaxStops) refuse_field("stop", cat("expected at most ", kMaxStops, ", got ", stops.size()));
  for (const std::string& stop : stops)
    if (stop.empty() || stop.size() > kMaxStopBytes)
      refuse_field("stop", cat("expected text of 1 to ", kMaxStopBytes, " bytes, got ", stop.size()));
  return stops;
}

// {"42": -1.5}
std::vector<std::pair<int32_t, float>> parse_bias(const JsonFields& body) {
  std::vector<std::pair<int32_t, float>> result;
  const auto bias = body.optional_object("logit_bias");
  if (!bias) return result;
  for (const std::string& key : bias->keys()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0)
      refuse_field("logit_bias", cat("expected token ids as keys, got \"", printable(key, 40), "\""));
    result.emplace_back(id, static_cast<float>(bias->number(key, -100, 100)));
  }
  if (result.size() > kMaxBiases) refuse_field("logit_bias", cat("expected at most ", kMaxBiases, " tokens"));
  return result;
}

void parse_format(const JsonFields& body, std::string_view text, CommonFields& fields) {
  const auto format = body.optional_object("response_format");
  if (!format) return;
  const std::string type = format->string("type");
  if (format->has("schema"))  // where llama.cpp looks for it: what is meant is no longer any object
    refuse_field("response_format.schema", "expected it in json_schema, with the type \"json_schema\"");
  if (type == "json_object") fields.format = ResponseFormat::json_object;
  else if (type == "json_schema") {
    fields.format = ResponseFormat::json_schema;
    if (!format->object("json_schema").has("schema"))
      refuse_field("response_format.json_schema.schema", "expected a JSON schema");
    fields.schema = formats::json_member(text, {"response_format", "json_schema", "schema"});
    if (fields.schema.size() > runtime::kMaxSchemaBytes)
      refuse_field("response_format.json_schema.schema", cat("expected at most ", runtime::kMaxSchemaBytes, " bytes"));
  } else if (type != "text") {
    throw format->error("type", "\"text\", \"json_object\" or \"json_schema\"");
  }
}

}  // namespace

void refuse_field(const std::string& field, const std::string& problem) {
  throw ApiError(400, cat(field, ": ", problem), field);
}

void parse_common(const JsonFields& body, std::string_view text, CommonFields& fields) {
  fields.model = body.optional_string("model");
  fields.temperature = body.optional_number("temperature", 0, 100);
  fields.top_p = body.optional_number("top_p", 0, 1);
  fields.min_p = body.optional_number("min_p", 0, 1);
  fields.repetition_penalty = body.optional_number("repetition_penalty", 0.01, 100);
  fields.presence_penalty = body.optional_number("presence_penalty", -100, 100);
  fields.frequency_penalty = body.optional_number("frequency_penalty", -100, 100);
  fields.top_k = body.optional_integer("top_k", -1, INT32_MAX);
  fields.max_tokens = body.optional_integer("max_tokens", -1, INT64_MAX);
  if (const auto seed = body.optional_integer("seed", INT64_MIN, INT64_MAX)) fields.seed = static_cast<uint64_t>(*seed);
  fields.logit_bias = parse_bias(body);
  fields.stops = parse_stops(body);
  for (int64_t id : body.optional_integers("stop_token_ids", 0, INT32_MAX).value_or(std::vector<int64_t>()))
    fields.stop_token_ids.push_back(static_cast<int32_t>(id));
  if (fields.stop_token_ids.size() > kMaxBiases) refuse_field("stop_token_ids", cat("expected at most ", kMaxBiases));
  fields.ignore_eos = body.optional_boolean("ignore_eos").value_or(false);
  fields.skip_special_tokens = body.optional_boolean("skip_special_tokens").value_or(true);
  fields.n = body.optional_integer("n", 1, kMaxChoices).value_or(1);
  fields.stream = body.optional_boolean("stream").value_or(false);
  if (const auto options = body.optional_object("stream_options")) {
    fields.include_usage = options->optional_boolean("include_usage").value_or(false);
    for (const std::string& key : options->unread_keys()) fields.unknown.push_back("stream_options." + key);
  }
  parse_format(body, text, fields);
}

}  // namespace linnet::server
