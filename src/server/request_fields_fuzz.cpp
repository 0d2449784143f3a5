// Fuzzer of the bodies of requests: the first byte chooses the endpoint. What comes through is within its limits.
#include <cmath>
#include <cstdlib>

#include "server/api_error.h"
#include "server/request_fields.h"

namespace {

using namespace linnet::server;

void check(const CommonFields& f) {
  if (f.n < 1 || f.n > kMaxChoices || f.top_logprobs < -1 || f.top_logprobs > kMaxTopLogprobs) abort();
  if (f.stops.size() > kMaxStops) abort();
  for (const auto& stop : f.stops)
    if (stop.empty() || stop.size() > kMaxStopBytes) abort();
  for (const auto& [id, bias] : f.logit_bias)
    if (id < 0 || !(std::abs(bias) <= 100)) abort();
  if (f.temperature && !(*f.temperature >= 0 && *f.temperature <= 100)) abort();
  if ((f.format == ResponseFormat::json_schema) == f.schema.empty()) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    if (data[0] % 2 == 0) {
      const ChatFields chat = parse_chat(body);
      check(chat);
      if (chat.messages.empty()) abort();
    } else {
      const CompletionFields completion = parse_completion(body);
      check(completion);
      if (completion.prompts.empty() || completion.prompts.size() > kMaxPrompts) abort();
    }
  } catch (const linnet::Error& e) {
    const ApiError error = to_api_error(e);
    if (error.status != 400) abort();
    error_json(error);
  }
  return 0;
}
