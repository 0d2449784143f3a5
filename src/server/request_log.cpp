#include "server/request_log.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>

#include "core/rng.h"
#include "core/text.h"

namespace linnet::server {
namespace {

constexpr size_t kMaxIdBytes = 64, kMaxPathBytes = 200;

bool is_plain(std::string_view id) {
  return !id.empty() && id.size() <= kMaxIdBytes && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' ||
           c == '.';
  });
}

std::string time_text(std::chrono::system_clock::time_point now) {
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[64], whole[96];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(whole, sizeof whole, "%s.%03dZ", text, static_cast<int>(ms));
  return whole;
}

double rounded(double seconds) { return std::round(seconds * 1e6) / 1e6; }

}  // namespace

std::string request_id(const HttpRequest& request) {
  if (const std::string_view given = request.header("x-request-id"); is_plain(given)) return std::string(given);
  thread_local Rng random(uint64_t{std::random_device()()} << 32 | std::random_device()());
  char text[24];
  std::snprintf(text, sizeof text, "req-%016llx", static_cast<unsigned long long>(random.bits()));
  return text;
}

std::string log_line(const RequestRecord& r, std::chrono::system_clock::time_point now) {
  nlohmann::ordered_json json = {{"time", time_text(now)},
                                 {"request_id", r.id},
                                 {"client", r.client},
                                 {"method", r.method.substr(0, 20)},
                                 {"path", r.path.substr(0, kMaxPathBytes)},
                                 {"status", r.status},
                                 {"bytes", r.bytes},
                                 {"seconds", rounded(r.seconds)}};
  if (r.generated) {
    json["prompt_tokens"] = r.prompt_tokens;
    json["cached_tokens"] = r.cached_tokens;
    json["generated_tokens"] = r.generated_tokens;
    json["queue_seconds"] = rounded(r.queue_seconds);
    json["first_token_seconds"] = rounded(r.first_token_seconds);
    json["finish"] = r.finish;
  }
  if (!r.ignored.empty()) json["ignored_fields"] = r.ignored;
  if (!r.error.empty()) json["error"] = r.error;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace linnet::server
