#include "cli/bench.h"

#include <nlohmann/json.hpp>

#include "cli/bench_measure.h"
#include "cli/formatted.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/trace_table.h"
#include "core/cpu_features.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMemoryMargin = 200'000'000;  // what a run may take beside weights and states

struct Machine {
  std::string cpu;
  const char* isa;
  int threads;
};

std::string speed_rows(const BenchResult& r) {
  std::string out = "ratio  what        depth  tokens  tokens/s      median  low..high               floor\n";
  for (const PrefillResult& p : r.prefill)
    out += formatted("%5.2f  prefill %9s %7s %9.1f %8.3f s   %.3f..%.3f s  %.1f GFLOP a token\n", p.ratio,
                     count(p.depth).c_str(), count(p.tokens).c_str(), static_cast<double>(p.tokens) / p.seconds.median,
                     p.seconds.median, p.seconds.low, p.seconds.high,
                     p.cost.total() / static_cast<double>(p.tokens) / 1e9);
  for (const DecodeResult& d : r.decode)
    out += formatted("%5.2f  decode  %9s %7s %9.1f %8.3f ms  %.3f..%.3f ms  weights %s (%.2f), state %s\n", d.ratio,
                     count(d.depth).c_str(), count(d.tokens).c_str(), 1 / d.seconds_per_token.median,
                     d.seconds_per_token.median * 1e3, d.seconds_per_token.low * 1e3, d.seconds_per_token.high * 1e3,
                     size(d.cost.weight_bytes).c_str(), d.weights_ratio(), size(d.cost.state_bytes).c_str());
  return out;
}

// Seconds a token of the whole over those of the first point: 1 is linear.
double growth(const std::vector<CorePoint>& points) {
  const auto a_token = [](const CorePoint& p) { return p.seconds / static_cast<double>(p.tokens); };
  return a_token(points.back()) / a_token(points.front());
}

std::string core_row(const BenchResult& r) {
  if (r.core_alone.empty()) return {};
  const CorePoint &first = r.core_alone.front(), &last = r.core_alone.back();
  return formatted("\nKDA core alone, one layer: %s tokens %.3f s, %s tokens %.3f s, %.2f times the seconds a token\n",
                   count(first.tokens).c_str(), first.seconds, count(last.tokens).c_str(), last.seconds,
                   growth(r.core_alone));
}

std::string fill_rows(const BenchResult& r) {
  if (r.fills.empty()) return {};
  std::string out = "\nKDA core of a prompt    seconds   share   seconds a token, of the first row\n";
  const FillResult& first = r.fills.front();
  for (const FillResult& f : r.fills)
    out += formatted("%12s tokens %12.3f %6.1f %% %8.2f\n", count(f.tokens).c_str(), f.kda_core_seconds,
                     100 * f.kda_core_share(),
                     f.kda_core_seconds / static_cast<double>(f.tokens) /
                         (first.kda_core_seconds / static_cast<double>(first.tokens)));
  out += cat("\nwhere the time of ", count(first.tokens), " tokens goes\n");
  return out + trace_table(first.parts, first.seconds);
}

std::string table(const BenchResult& r, const Machine& machine) {
  std::string out = cat("machine   ", machine.cpu, ", ", machine.threads, " threads, ", machine.isa, "\n");
  out += formatted("floors    read %.1f GB/s, products %.1f GFLOP/s\n\n", r.floors.read_bytes_per_second / 1e9,
                   r.floors.gemm_flops_per_second / 1e9);
  out += speed_rows(r) + fill_rows(r) + core_row(r);
  if (r.first_token_seconds) out += formatted("\nfirst token   %.3f s after process start\n", *r.first_token_seconds);
  out += formatted("memory        %s resident at most (now %s own, %s of files); weights + states + 200 MB: %s\n",
                   size(r.memory.peak).c_str(), size(r.memory.anonymous).c_str(), size(r.memory.file).c_str(),
                   size(r.weight_bytes + r.state_bytes + kMemoryMargin).c_str());
  return out;
}

Json json_of(const Spread& s) { return {{"median", s.median}, {"low", s.low}, {"high", s.high}}; }

std::string json(const BenchResult& r, const Machine& machine) {
  Json out = {{"machine", {{"cpu", machine.cpu}, {"isa", machine.isa}, {"threads", machine.threads}}},
              {"floors",
               {{"read_bytes_per_second", r.floors.read_bytes_per_second},
                {"gemm_flops_per_second", r.floors.gemm_flops_per_second}}},
              {"prefill", Json::array()},
              {"decode", Json::array()},
              {"kda_core", Json::array()}};
  for (const PrefillResult& p : r.prefill)
    out["prefill"].push_back({{"ratio", p.ratio},
                              {"depth", p.depth},
                              {"tokens", p.tokens},
                              {"seconds", json_of(p.seconds)},
                              {"tokens_per_second", static_cast<double>(p.tokens) / p.seconds.median},
                              {"flops", p.cost.total()}});
  for (const DecodeResult& d : r.decode)
    out["decode"].push_back({{"ratio", d.ratio},
                             {"weights_ratio", d.weights_ratio()},
                             {"depth", d.depth},
                             {"tokens", d.tokens},
                             {"seconds_per_token", json_of(d.seconds_per_token)},
                             {"tokens_per_second", 1 / d.seconds_per_token.median},
                             {"weight_bytes", d.cost.weight_bytes},
                             {"state_bytes", d.cost.state_bytes}});
  for (const FillResult& f : r.fills) {
    Json parts = Json::object();
    for (const Trace::Entry& part : f.parts) parts[part.name] = part.seconds;
    out["kda_core"].push_back({{"tokens", f.tokens},
                               {"seconds", f.kda_core_seconds},
                               {"share", f.kda_core_share()},
                               {"prefill_seconds", f.seconds},
                               {"parts_seconds", parts}});
  }
  for (const CorePoint& p : r.core_alone)
    out["kda_core_alone"]["points"].push_back({{"tokens", p.tokens}, {"seconds", p.seconds}});
  if (!r.core_alone.empty()) out["kda_core_alone"]["growth"] = growth(r.core_alone);
  out["first_token_seconds"] = r.first_token_seconds ? Json(*r.first_token_seconds) : Json();
  out["memory"] = {{"peak_bytes", r.memory.peak},  {"anonymous_bytes", r.memory.anonymous},
                   {"file_bytes", r.memory.file},  {"weight_bytes", r.weight_bytes},
                   {"state_bytes", r.state_bytes}, {"limit_bytes", r.weight_bytes + r.state_bytes + kMemoryMargin}};
  return out.dump() + "\n";
}

}  // namespace

int run_bench(const BenchArgs& args) {
  const auto engine = open_engine(args.engine);
  const Machine machine{cpu_model_name(), name_of(active_isa()), engine->pool().size()};
  std::optional<ProgressLine> line;
  std::string shown;
  const BenchResult result = measure(*engine, args, [&](const std::string& what, int64_t done, int64_t total) {
    if (what != shown) line.emplace(shown = what, "tokens");
    line->update(done, total);
  });
  line.reset();
  print(args.json ? json(result, machine) : table(result, machine));
  return 0;
}

}  // namespace linnet::cli
