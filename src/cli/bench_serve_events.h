// What an OpenAI-compatible server says in the events of a stream and in its errors.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace linnet::cli {

struct CompletionEvent {
  std::optional<std::string> error;  // the server's sentence
  std::vector<std::string> texts;    // of the choices, those that are not empty
  struct Usage {
    int64_t prompt_tokens, cached_tokens, generated_tokens;  // -1: it does not say
  };
  std::optional<Usage> usage;
};

// Of /v1/completions or /v1/chat/completions. Throws FormatError.
CompletionEvent parse_completion_event(const std::string& data);

// {"error": {"message": ...}}, or what there is instead.
std::string parse_error_message(const std::string& body);

}  // namespace linnet::cli
