#include "cli/bench_serve_report.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/formatted.h"
#include "core/errors.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

using Json = nlohmann::ordered_json;

// Seconds per token after the first; nothing for a reply of one token.
std::optional<double> tpot(const Sample& s) {
  const int64_t tokens = s.generated_tokens >= 0 ? s.generated_tokens : static_cast<int64_t>(s.gaps.size()) + 1;
  if (s.first == 0 || tokens < 2) return std::nullopt;
  return (s.last - s.first) / static_cast<double>(tokens - 1);
}

bool is_good(const Sample& s, const Goodput& limits) {
  const auto within = [](std::optional<double> seconds, std::optional<double> limit_ms) {
    return !limit_ms || !seconds || *seconds * 1e3 <= *limit_ms;
  };
  const std::optional<double> first = s.first > 0 ? std::optional(s.first - s.start) : std::nullopt;
  return within(first, limits.ttft_ms) && within(tpot(s), limits.tpot_ms) && within(s.end - s.start, limits.latency_ms);
}

std::string row(const char* name, const Spread& s) {
  if (s.n == 0) return {};
  return formatted("%-22s %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, s.mean, s.p50, s.p90, s.p99, s.max);
}

Json json_of(const Spread& s) {
  return {{"n", s.n}, {"mean", s.mean}, {"p50", s.p50}, {"p90", s.p90}, {"p99", s.p99}, {"max", s.max}};
}

double per_second(const ServeReport& r, int64_t n) { return r.seconds > 0 ? static_cast<double>(n) / r.seconds : 0; }

std::string limits_text(const Goodput& limits) {
  std::string out;
  const auto add = [&](const char* name, std::optional<double> limit) {
    if (limit) out += cat(out.empty() ? "" : ", ", name, " <= ", *limit, " ms");
  };
  add("TTFT", limits.ttft_ms), add("TPOT", limits.tpot_ms), add("latency", limits.latency_ms);
  return out;
}

}  // namespace

Spread spread(std::vector<double> seconds) {
  if (seconds.empty()) return {};
  std::sort(seconds.begin(), seconds.end());
  const auto rank = [&](double p) {
    const auto n = static_cast<size_t>(std::ceil(p * static_cast<double>(seconds.size())));
    return seconds[std::max<size_t>(n, 1) - 1] * 1e3;
  };
  double sum = 0;
  for (const double s : seconds) sum += s;
  return {.n = seconds.size(),
          .mean = sum / static_cast<double>(seconds.size()) * 1e3,
          .p50 = rank(0.5),
          .p90 = rank(0.9),
          .p99 = rank(0.99),
          .max = rank(1)};
}

Goodput parse_goodput(const std::string& text) {
  Goodput limits;
  for (size_t from = 0; from < text.size();) {
    const std::string part = text.substr(from, text.find(',', from) - from);
    from += part.size() + 1;
    const size_t equals = part.find('=');
    const std::string name = part.substr(0, equals);
    std::optional<double>* limit = name == "ttft"      ? &limits.ttft_ms
                                   : name == "tpot"    ? &limits.tpot_ms
                                   : name == "latency" ? &limits.latency_ms
                                                       : nullptr;
    double value = 0;
    const char* end = part.data() + part.size();
    const char* digits = equals == std::string::npos ? end : part.data() + equals + 1;
    const auto [stop, error] = std::from_chars(digits, end, value);
    if (!limit || error != std::errc() || stop != end || !(value > 0) || !std::isfinite(value))
      throw InvalidArgument(
          cat("--goodput: expected ttft=MS, tpot=MS or latency=MS, separated by commas, got ", printable(part, 40)));
    *limit = value;
  }
  return limits;
}

ServeReport summarize(const std::vector<Sample>& samples, const Goodput& limits) {
  ServeReport r;
  r.limits = limits;
  double begin = 1e300, end = 0;
  std::vector<double> first, per_token, gaps, latency;
  for (const Sample& s : samples) {
    begin = std::min(begin, s.start), end = std::max(end, s.end);
    if (!s.error.empty()) {
      ++r.failed;
      ++r.errors[s.error];
      r.details.emplace(s.error, s.detail);
      continue;
    }
    ++r.done;
    r.good += is_good(s, limits);
    r.prompt_tokens += std::max<int64_t>(s.prompt_tokens, 0);
    r.cached_tokens += std::max<int64_t>(s.cached_tokens, 0);
    r.cached_known = r.cached_known || s.cached_tokens >= 0;
    r.generated_tokens += std::max<int64_t>(s.generated_tokens, 0);
    latency.push_back(s.end - s.start);
    if (s.first > 0) first.push_back(s.first - s.start);
    if (const auto t = tpot(s)) per_token.push_back(*t);
    gaps.insert(gaps.end(), s.gaps.begin(), s.gaps.end());
  }
  r.seconds = samples.empty() ? 0 : end - begin;
  r.ttft = spread(std::move(first)), r.tpot = spread(std::move(per_token)), r.itl = spread(std::move(gaps));
  r.latency = spread(std::move(latency));
  return r;
}

std::string report_table(const ServeReport& r) {
  std::string out = formatted("requests   %s complete, %s failed, in %.2f s: %.2f a second\n", count(r.done).c_str(),
                              count(r.failed).c_str(), r.seconds, per_second(r, r.done));
  for (const auto& [kind, n] : r.errors)
    out += cat("           ", count(n), " x ", kind, r.details.at(kind).empty() ? "" : ": " + r.details.at(kind), "\n");
  if (r.generated_tokens > 0) {
    const std::string cached = r.cached_known ? cat(" (", count(r.cached_tokens), " from the cache)") : "";
    out += formatted("tokens     prompt %s%s, generated %s: %.1f a second\n", count(r.prompt_tokens).c_str(),
                     cached.c_str(), count(r.generated_tokens).c_str(), per_second(r, r.generated_tokens));
  }
  if (r.limits.asked())
    out += formatted("goodput    %s of %s: %.2f a second within %s\n", count(r.good).c_str(),
                     count(r.done + r.failed).c_str(), per_second(r, r.good), limits_text(r.limits).c_str());
  out += formatted("client     %.0f %% of a core%s\n\n", 100 * r.client_share,
                   r.client_share > 0.8 ? ": it may be what limits" : "");
  out += formatted("%-22s %10s %10s %10s %10s %10s\n", "milliseconds", "mean", "p50", "p90", "p99", "max");
  return out + row("first text (TTFT)", r.ttft) + row("a token (TPOT)", r.tpot) + row("between texts (ITL)", r.itl) +
         row("whole answer", r.latency);
}

std::string report_json(const ServeReport& r) {
  Json out = {{"complete", r.done},
              {"failed", r.failed},
              {"errors", Json(r.errors)},
              {"seconds", r.seconds},
              {"requests_per_second", per_second(r, r.done)},
              {"prompt_tokens", r.prompt_tokens},
              {"cached_tokens", r.cached_known ? Json(r.cached_tokens) : Json()},
              {"generated_tokens", r.generated_tokens},
              {"tokens_per_second", per_second(r, r.generated_tokens)},
              {"client_core_share", r.client_share},
              {"ttft_ms", json_of(r.ttft)},
              {"tpot_ms", json_of(r.tpot)},
              {"itl_ms", json_of(r.itl)},
              {"latency_ms", json_of(r.latency)}};
  if (r.limits.asked()) out["goodput"] = {{"good", r.good}, {"per_second", per_second(r, r.good)}};
  return out.dump(2) + "\n";
}

}  // namespace linnet::cli
