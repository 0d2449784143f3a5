#include "server/access.h"

#include <algorithm>

#include "core/text.h"
#include "formats/mapped_file.h"
#include "server/api_error.h"

namespace linnet::server {
namespace {

constexpr size_t kMaxKeyFileBytes = 1 << 20;

// Takes as long for a key that is wrong at its first byte as for one that is wrong at its last.
bool equal_in_constant_time(std::string_view known, std::string_view given) {
  unsigned difference = known.size() == given.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i)
    difference |=
        static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(known.empty() ? 0 : known[i % known.size()]);
  return difference == 0;
}

std::string_view bearer_of(const HttpRequest& request) {
  constexpr std::string_view kScheme = "bearer ";
  std::string_view value = request.header("authorization");
  if (value.size() < kScheme.size()) return {};
  for (size_t i = 0; i < kScheme.size(); ++i)
    if ((value[i] | 0x20) != kScheme[i] && value[i] != ' ') return {};
  value.remove_prefix(kScheme.size());
  return value;
}

// "localhost:8080", "[::1]:8080" -> the name.
std::string host_name(std::string_view host) {
  if (host.starts_with('[')) return std::string(host.substr(1, std::min(host.find(']'), host.size()) - 1));
  return std::string(host.substr(0, host.find(':')));
}

bool same_origin(std::string_view origin, std::string_view host) {
  return !host.empty() && (origin == cat("http://", host) || origin == cat("https://", host));
}

bool allowed_origin(const AccessRules& rules, std::string_view origin) {
  return std::any_of(rules.cors_origins.begin(), rules.cors_origins.end(),
                     [&](const std::string& allowed) { return allowed == "*" || allowed == origin; });
}

}  // namespace

std::vector<std::string> read_keys(const std::string& file) {
  std::vector<std::string> keys;
  const std::string text = formats::read_text_file(file, kMaxKeyFileBytes);
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && line[0] != '#') keys.push_back(std::move(line));
    at = end + 1;
  }
  if (keys.empty()) throw FormatError(cat(file, ": expected a key on a line, got none"));
  return keys;
}

bool is_loopback(const std::string& host) {
  const bool four = host.starts_with("127.") &&
                    std::all_of(host.begin(), host.end(), [](char c) { return c == '.' || (c >= '0' && c <= '9'); });
  return four || host == "localhost" || host == "::1" || host.ends_with(".localhost");
}

void check_access(const AccessRules& rules, const HttpRequest& request, bool needs_key) {
  const std::string_view host = request.header("host"), origin = request.header("origin");
  if (rules.local_names_only && !host.empty() && !is_loopback(host_name(host)))
    throw ApiError(421, cat("host: expected localhost, got \"", printable(host, 80), "\""), "", "foreign_host");
  if (!origin.empty() && !same_origin(origin, host) && !allowed_origin(rules, origin))
    throw ApiError(403, cat("origin: \"", printable(origin, 80), "\" may not ask; --cors lets it"), "",
                   "foreign_origin");
  if (!needs_key || rules.keys.empty()) return;
  const std::string_view given = bearer_of(request);
  bool known = false;
  for (const std::string& key : rules.keys) known |= equal_in_constant_time(key, given);
  if (!known)
    throw ApiError(401, given.empty() ? "expected the header Authorization: Bearer KEY" : "the API key is not known",
                   "", "invalid_api_key");
}

HeaderList cors_headers(const AccessRules& rules, const HttpRequest& request) {
  const std::string_view origin = request.header("origin");
  if (origin.empty() || !allowed_origin(rules, origin)) return {};
  HeaderList headers = {{"Access-Control-Allow-Origin", std::string(origin)}, {"Vary", "Origin"}};
  if (request.method == "OPTIONS") {
    headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE");
    headers.emplace_back("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id");
    headers.emplace_back("Access-Control-Max-Age", "600");
  } else {
    headers.emplace_back("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
  }
  return headers;
}

}  // namespace linnet::server
