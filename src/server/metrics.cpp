#include "server/metrics.h"

#include <algorithm>
#include <charconv>

#include "core/text.h"

namespace linnet::server {
namespace {

std::string number(double value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, value).ptr);
}

void head(std::string_view name, std::string_view help, std::string_view type, std::string& out) {
  out += cat("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
}

}  // namespace

void Histogram::add(double seconds) {
  const auto bucket = std::lower_bound(kBounds.begin(), kBounds.end(), seconds);
  if (bucket != kBounds.end()) ++counts_[static_cast<size_t>(bucket - kBounds.begin())];
  ++count_;
  sum_ += seconds;
}

void Histogram::write(std::string_view name, std::string& out) const {
  uint64_t below = 0;
  for (size_t i = 0; i < kBounds.size(); ++i) {
    below += counts_[i];
    out += cat(name, "_bucket{le=\"", number(kBounds[i]), "\"} ", below, "\n");
  }
  out += cat(name, "_bucket{le=\"+Inf\"} ", count_, "\n", name, "_sum ", number(sum_), "\n", name, "_count ", count_,
             "\n");
}

void Metrics::request(std::string_view route, int status, double seconds) {
  const std::lock_guard lock(mutex_);
  ++requests_[{std::string(route), status}];
  duration_.add(seconds);
}

void Metrics::first_token(double seconds) {
  const std::lock_guard lock(mutex_);
  first_token_.add(seconds);
}

void Metrics::token_interval(double seconds) {
  const std::lock_guard lock(mutex_);
  token_interval_.add(seconds);
}

void Metrics::usage(int64_t prompt, int64_t cached, int64_t generated) {
  const std::lock_guard lock(mutex_);
  prompt_tokens_ += static_cast<uint64_t>(prompt);
  cached_tokens_ += static_cast<uint64_t>(cached);
  generated_tokens_ += static_cast<uint64_t>(generated);
}

void Metrics::hang_up() {
  const std::lock_guard lock(mutex_);
  ++hang_ups_;
}

std::string Metrics::text(std::initializer_list<Gauge> more) const {
  const std::lock_guard lock(mutex_);
  std::string out;
  head("linnet_requests_total", "Answered requests.", "counter", out);
  for (const auto& [key, count] : requests_)
    out += cat("linnet_requests_total{route=\"", key.first, "\",status=\"", key.second, "\"} ", count, "\n");
  const auto counter = [&](const char* name, const char* help, uint64_t value) {
    head(name, help, "counter", out);
    out += cat(name, " ", value, "\n");
  };
  counter("linnet_hang_ups_total", "Requests whose client had gone before the answer was complete.", hang_ups_);
  counter("linnet_prompt_tokens_total", "Tokens of prompts.", prompt_tokens_);
  counter("linnet_cached_tokens_total", "Of these, tokens whose state was remembered.", cached_tokens_);
  counter("linnet_generated_tokens_total", "Tokens drawn.", generated_tokens_);
  const auto histogram = [&](const char* name, const char* help, const Histogram& values) {
    head(name, help, "histogram", out);
    values.write(name, out);
  };
  histogram("linnet_request_seconds", "From a request's arrival to the end of its answer.", duration_);
  histogram("linnet_time_to_first_token_seconds", "From a request's arrival to its first token.", first_token_);
  histogram("linnet_time_per_output_token_seconds", "Mean time between the tokens of a reply.", token_interval_);
  for (const Gauge& gauge : more) {
    head(gauge.name, gauge.help, gauge.type, out);
    out += cat(gauge.name, " ", number(gauge.value), "\n");
  }
  return out;
}

}  // namespace linnet::server
