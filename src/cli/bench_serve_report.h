// What bench-serve says: percentiles of what the clients saw, as a table or as JSON.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_serve_load.h"

namespace linnet::cli {

struct
    Spread {  // milliseconds; percentiles by nearest rank: the smallest value that p percent of the values do not exceed
  size_t n = 0;
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};
Spread spread(std::vector<double> seconds);

// Limits that a request must keep to be good; absent: not looked at.
struct Goodput {
  std::optional<double> ttft_ms, tpot_ms, latency_ms;
  bool asked() const { return ttft_ms || tpot_ms || latency_ms; }
};
Goodput parse_goodput(const std::string& text);  // "ttft=500,tpot=50,latency=5000"

struct ServeReport {
  int64_t done = 0, failed = 0, good = 0;
  std::map<std::string, int64_t> errors;       // kind -> how many
  std::map<std::string, std::string> details;  // kind -> what the first of them said
  double seconds = 0;                          // from the first start to the last end
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  bool cached_known = false;
  double client_share = 0;  // of one core, used by this program
  Spread ttft, tpot, itl, latency;
  Goodput limits;
};

// Time to the first text: from the start of a request. Time per output token: from the first text to the last, over the tokens but one.
// Between tokens: gaps between the pieces of text. Latency: to the end of the answer.
ServeReport summarize(const std::vector<Sample>& samples, const Goodput& limits);

std::string report_table(const ServeReport& report);
std::string report_json(const ServeReport& report);

}  // namespace linnet::cli
