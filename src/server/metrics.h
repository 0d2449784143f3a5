// Metrics: counts and times of requests, and the text in which Prometheus reads them.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

namespace linnet::server {

// Counts of values up to each bound, in the way of Prometheus.
class Histogram {
 public:
  static constexpr std::array<double, 16> kBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                     0.5,   1,      2.5,   5,    10,    25,   60,  300};  // seconds
  void add(double seconds);
  void write(std::string_view name, std::string& out) const;
  uint64_t count() const { return count_; }

 private:
  std::array<uint64_t, kBounds.size()> counts_{};  // of values above the bound before
  uint64_t count_ = 0;
  double sum_ = 0;
};

// One value that somebody else keeps.
struct Gauge {
  const char* name;
  const char* help;
  const char* type;  // "counter" or "gauge"
  double value;
};

// Any thread.
class Metrics {
 public:
  void request(std::string_view route, int status, double seconds);
  void first_token(double seconds);     // from the request's arrival
  void token_interval(double seconds);  // mean time between tokens of one choice
  void usage(int64_t prompt, int64_t cached, int64_t generated);
  void hang_up();

  std::string text(std::initializer_list<Gauge> more) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, uint64_t> requests_;
  Histogram duration_, first_token_, token_interval_;
  uint64_t prompt_tokens_ = 0, cached_tokens_ = 0, generated_tokens_ = 0, hang_ups_ = 0;
};

}  // namespace linnet::server
