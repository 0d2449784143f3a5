// Who may ask: API keys, the Host header (DNS rebinding), the origin of a page in a browser (CORS).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/http_message.h"

namespace linnet::server {

struct AccessRules {
  std::vector<std::string> keys;          // any of them opens; none: no key is asked for
  bool local_names_only = true;           // bound to loopback: the Host must be a name of this machine's loopback
  std::vector<std::string> cors_origins;  // other pages that may ask; "*": any
};

// One key a line; blank lines and lines that begin with # are none. Throws FormatError when there is none at all, IoError.
std::vector<std::string> read_keys(const std::string& file);

bool is_loopback(const std::string& host);  // "localhost", "127.x.y.z", "::1"

// Throws ApiError: 421 for a foreign Host, 403 for a foreign page, 401 without a key where one is needed.
void check_access(const AccessRules& rules, const HttpRequest& request, bool needs_key);

// What a browser needs to hand the answer to another page; empty where nobody asked, or may not.
HeaderList cors_headers(const AccessRules& rules, const HttpRequest& request);

}  // namespace linnet::server
