// The fields of /v1/chat/completions.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "server/api_error.h"
#include "server/field_table.h"
#include "server/request_fields.h"

namespace linnet::server {
namespace {

using formats::ChatMessage;
using formats::JsonFields;
using formats::JsonKind;

constexpr size_t kMaxMessages = 4096;

// Text, null, or a list of parts of which only text is known here.
std::string parse_content(const JsonFields& message) {
  if (message.kind("content") != JsonKind::array) return message.optional_string("content").value_or("");
  std::string text;
  for (const JsonFields& part : message.objects("content")) {
    const std::string type = part.string("type");
    if (type != "text" && type != "input_text") throw part.error("type", "\"text\": the model reads nothing else");
    text += part.string("text");
  }
  return text;
}

// Members that templates read beside role and content.
std::string parse_more(const JsonFields& message) {
  nlohmann::ordered_json more;
  for (const char* key : {"name", "tool_calls", "tool_call_id", "reasoning_content"})
    if (const auto value = message.optional_json(key)) more[key] = nlohmann::ordered_json::parse(*value);
  return more.is_null() ? "" : more.dump();
}

std::vector<ChatMessage> parse_messages(const JsonFields& body) {
  static constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant", "tool"};
  std::vector<ChatMessage> messages;
  const std::vector<JsonFields> given = body.objects("messages");
  if (given.empty() || given.size() > kMaxMessages)
    refuse_field("messages", cat("expected 1 to ", kMaxMessages, ", got ", given.size()));
  for (const JsonFields& message : given) {
    std::string role = message.string("role");
    if (std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end())
      throw message.error("role", "system, developer, user, assistant or tool");
    if (role == "developer") role = "system";
    if (role != "assistant" && !message.has("content")) throw message.error("content", "text");
    messages.push_back({.role = std::move(role), .content = parse_content(message), .more = parse_more(message)});
  }
  return messages;
}

}  // namespace

ChatFields parse_chat(std::string_view text) {
  const JsonFields body = JsonFields::parse(text, "body", kBodyLimits);
  refuse_fields(body, Endpoint::chat);
  ChatFields fields;
  parse_common(body, text, fields);
  for (std::string& name : unknown_fields(body, Endpoint::chat)) fields.unknown.push_back(std::move(name));
  if (const auto limit = body.optional_integer("max_completion_tokens", -1, INT64_MAX)) fields.max_tokens = limit;
  const auto top = body.optional_integer("top_logprobs", 0, kMaxTopLogprobs);
  if (body.optional_boolean("logprobs").value_or(false)) fields.top_logprobs = top.value_or(0);
  else if (top.value_or(0) > 0) refuse_field("top_logprobs", "expected logprobs to be true with it");
  fields.messages = parse_messages(body);
  fields.add_generation_prompt = body.optional_boolean("add_generation_prompt").value_or(true);
  if (body.optional_object("chat_template_kwargs")) fields.variables_json = *body.optional_json("chat_template_kwargs");
  if (body.has("tools") && !body.objects("tools").empty()) fields.tools_json = formats::json_member(text, {"tools"});
  fields.tool_choice_json = body.optional_json("tool_choice").value_or("");
  fields.parallel_tool_calls = body.optional_boolean("parallel_tool_calls").value_or(true);
  return fields;
}

}  // namespace linnet::server
