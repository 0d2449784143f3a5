#include "cli/bench_serve_events.h"

#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

using nlohmann::json;

const json* member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found != object.end() && !found->is_null() ? &*found : nullptr;
}

int64_t count_in(const json* object, const char* key) {
  const json* found = object ? member(*object, key) : nullptr;
  return found && found->is_number_integer() ? found->get<int64_t>() : -1;
}

}  // namespace

CompletionEvent parse_completion_event(const std::string& data) {
  const json event = json::parse(data, nullptr, false);
  if (!event.is_object()) throw FormatError("answer: expected the JSON of a completion");
  CompletionEvent out;
  if (member(event, "error")) out.error = parse_error_message(data);
  if (const json* usage = member(event, "usage"))
    out.usage = {.prompt_tokens = count_in(usage, "prompt_tokens"),
                 .cached_tokens = count_in(member(*usage, "prompt_tokens_details"), "cached_tokens"),
                 .generated_tokens = count_in(usage, "completion_tokens")};
  const json* choices = member(event, "choices");
  if (!choices || !choices->is_array()) return out;
  for (const json& choice : *choices) {
    const json* delta = member(choice, "delta");
    const json* text = delta ? member(*delta, "content") : member(choice, "text");
    if (text && text->is_string() && !text->get_ref<const std::string&>().empty())
      out.texts.push_back(text->get<std::string>());
  }
  return out;
}

std::string parse_error_message(const std::string& body) {
  const json answer = json::parse(body, nullptr, false);
  const json* error = member(answer, "error");
  const json* message = error ? member(*error, "message") : nullptr;
  return message && message->is_string() ? message->get<std::string>() : printable(body, 200);
}

}  // namespace linnet::cli
