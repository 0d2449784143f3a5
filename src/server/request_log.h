// RequestRecord: what is known of a request when it has ended, as one line of JSON.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "server/http_message.h"

namespace linnet::server {

struct RequestRecord {
  std::string id;     // X-Request-Id: the client's, if it is short and plain, else a fresh one
  std::string route;  // of the table of routes; "unknown"
  std::string method, path, client;
  int status = 0;
  size_t bytes = 0;  // of the answer
  double seconds = 0;
  std::string error;  // what went wrong, for us; "" = nothing
  // Of generation; 0 elsewhere.
  bool generated = false;
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  double queue_seconds = 0, first_token_seconds = 0;
  std::string finish;   // "stop", "length", ..., "hung up"
  std::string ignored;  // fields that nobody knows
};

std::string request_id(const HttpRequest& request);
std::string log_line(const RequestRecord& record, std::chrono::system_clock::time_point now);

}  // namespace linnet::server
