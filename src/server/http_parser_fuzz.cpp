// Fuzzer of HttpParser: what comes out does not depend on how the bytes are cut, and stays within the limits.
#include <cstdlib>

#include "server/http_parser.h"

namespace {

using linnet::server::HttpLimits;
using linnet::server::HttpParser;
using linnet::server::HttpRequest;

constexpr HttpLimits kLimits{.max_head_bytes = 512, .max_headers = 8, .max_body_bytes = 256};

struct Outcome {
  std::vector<HttpRequest> requests;
  int status = 0;
};

Outcome parse(std::string_view bytes, size_t step) {
  Outcome outcome;
  HttpParser parser(kLimits);
  while (!bytes.empty()) {
    const size_t used = parser.feed(bytes.substr(0, step));
    if (used == 0 || used > step) abort();
    bytes.remove_prefix(std::min(used, bytes.size()));
    if (parser.state() == HttpParser::State::complete) outcome.requests.push_back(parser.take());
    if (parser.state() == HttpParser::State::failed) {
      outcome.status = parser.status();
      break;
    }
  }
  return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const Outcome whole = parse(bytes, size + 1), cut = parse(bytes, 1), pieces = parse(bytes, 7);
  if (whole.status != cut.status || whole.requests.size() != cut.requests.size()) abort();
  if (whole.status != pieces.status || whole.requests.size() != pieces.requests.size()) abort();
  for (size_t i = 0; i < whole.requests.size(); ++i) {
    const HttpRequest &a = whole.requests[i], &b = cut.requests[i];
    if (a.method != b.method || a.path != b.path || a.headers != b.headers || a.body != b.body) abort();
    if (a.body.size() > kLimits.max_body_bytes || a.headers.size() > kLimits.max_headers) abort();
    if (!a.path.starts_with('/') && a.path != "*") abort();
  }
  return 0;
}
