// ApiError: an answer that is no result, in the shape of OpenAI's API; and which errors of the runtime become which.
#pragma once

#include <exception>
#include <string>

#include "core/errors.h"
#include "server/http_message.h"

namespace linnet::server {

struct ApiError : Error {
  ApiError(int status_code, const std::string& message, std::string parameter = "", std::string code_word = "")
      : Error(message), status(status_code), param(std::move(parameter)), code(std::move(code_word)) {}

  int status;
  std::string param, code;         // the field that is wrong; a word for programs; "" = null
  double retry_after_seconds = 0;  // 0: the client is not told
};

// Thrown where a reply is made when its client has gone: there is nobody to answer.
struct ClientGone {};

// InvalidArgument, FormatError, Unsupported: 400; Busy: 429, or 503 while draining; anything else: 500 without its text, which is
// for the log alone.
ApiError to_api_error(const std::exception& e);

std::string error_json(const ApiError& error);  // {"error": {"message", "type", "param", "code"}}
HttpResponse error_response(const ApiError& error);

}  // namespace linnet::server
