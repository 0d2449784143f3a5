#include "server/api_error.h"

#include <cmath>
#include <new>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "formats/json_fields.h"
#include "runtime/scheduler.h"

namespace linnet::server {
namespace {

const char* type_of(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 429: return "rate_limit_error";
    default: return status < 500 ? "invalid_request_error" : "server_error";
  }
}

nlohmann::ordered_json or_null(const std::string& text) {
  return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
}

}  // namespace

ApiError to_api_error(const std::exception& e) {
  if (const auto* known = dynamic_cast<const ApiError*>(&e)) return *known;
  if (const auto* busy = dynamic_cast<const runtime::Busy*>(&e)) {
    ApiError error(busy->draining ? 503 : 429, e.what(), "", busy->draining ? "shutting_down" : "busy");
    error.retry_after_seconds = busy->retry_after_seconds;
    return error;
  }
  if (const auto* field = dynamic_cast<const formats::JsonFieldError*>(&e)) {
    const std::string what = e.what();  // "body: temperature: expected ..."
    return {400, what.substr(what.starts_with("body: ") ? 6 : 0), field->path};
  }
  if (dynamic_cast<const InvalidArgument*>(&e) || dynamic_cast<const FormatError*>(&e) ||
      dynamic_cast<const Unsupported*>(&e))
    return {400, e.what()};
  if (dynamic_cast<const std::bad_alloc*>(&e) || dynamic_cast<const OutOfMemory*>(&e))
    return {503, "memory: there is not enough for this request now", "", "out_of_memory"};
  return {500, "an internal error; the server's log has it under the request's id", "", "internal_error"};
}

std::string error_json(const ApiError& error) {
  const nlohmann::ordered_json json = {{"error",
                                        {{"message", error.what()},
                                         {"type", type_of(error.status)},
                                         {"param", or_null(error.param)},
                                         {"code", or_null(error.code)}}}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response{.status = error.status, .body = error_json(error)};
  if (error.retry_after_seconds > 0)
    response.headers.emplace_back("Retry-After", cat(static_cast<int64_t>(std::ceil(error.retry_after_seconds))));
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace linnet::server
