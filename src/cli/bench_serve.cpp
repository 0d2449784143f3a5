#include "cli/bench_serve.h"

#include <sys/resource.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/bench_serve_load.h"
#include "cli/bench_serve_prompts.h"
#include "cli/bench_serve_report.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "core/errors.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

constexpr int64_t kMaxConcurrency = 65536, kMaxTurns = 1000;

void expect(bool holds, const char* option, const char* expected) {
  if (!holds) throw InvalidArgument(cat(option, ": expected ", expected));
}

BenchServeArgs checked(BenchServeArgs a) {
  expect(a.requests >= 1, "--requests", "1 or more");
  expect(a.concurrency >= 0 && a.concurrency <= kMaxConcurrency, "--concurrency", "1 to 65536");
  expect(a.rate >= 0 && std::isfinite(a.rate), "--rate", "a number above 0");
  expect(a.turns >= 1 && a.turns <= kMaxTurns, "--turns", "1 to 1000");
  expect(a.pause >= 0 && std::isfinite(a.pause), "--pause", "seconds");
  expect(a.timeout > 0, "--timeout", "seconds above 0");
  expect(a.seconds > 0, "--seconds", "seconds above 0");
  expect(a.shared_tokens >= 0, "--shared-tokens", "0 or more");
  expect(a.vocabulary >= 1, "--vocabulary", "1 or more");
  parse_range(a.prompt_tokens, "--prompt-tokens");
  parse_range(a.output_tokens, "--output-tokens");
  if (a.concurrency == 0) a.concurrency = a.rate > 0 ? 1024 : 8;
  if (const char* key = std::getenv("LINNET_API_KEY"); key && a.api_key.empty()) a.api_key = key;
  return a;
}

// A connection is an open file: as many as the system allows.
void raise_file_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

double cpu_seconds() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

class OneRequest : public Workload {
 public:
  explicit OneRequest(std::string request) : request_(std::move(request)) {}
  std::optional<Exchange> next_conversation() override {
    if (request_.empty()) return std::nullopt;
    return Exchange{.request = std::exchange(request_, {}), .stream = false};
  }
  std::optional<Exchange> next_turn(const Sample&) override { return std::nullopt; }

 private:
  std::string request_;
};

// The first model that the server offers.
std::string first_model(const ServerAddress& server, const BenchServeArgs& args, const Interrupt& interrupt) {
  OneRequest work(http_request(server, "/v1/models", args.api_key));
  const std::vector<Sample> samples = run_load(server, work, {.concurrency = 1, .timeout = args.timeout}, interrupt);
  if (samples.empty()) return {};  // interrupted
  const Sample& s = samples[0];
  if (!s.error.empty()) throw IoError(cat(args.url, ": /v1/models: ", s.error, s.detail.empty() ? "" : ": ", s.detail));
  try {
    return nlohmann::json::parse(s.text).at("data").at(0).at("id").get<std::string>();
  } catch (const nlohmann::json::exception&) {
    throw FormatError(cat(args.url, ": /v1/models: expected {\"data\": [{\"id\": ...}]}, got ", printable(s.text, 80)));
  }
}

}  // namespace

int run_bench_serve(const BenchServeArgs& given) {
  const BenchServeArgs args = checked(given);
  const Goodput limits = parse_goodput(args.goodput);
  const ServerAddress server = resolve(args.url);
  const Interrupt interrupt;
  raise_file_limit();
  std::unique_ptr<Workload> work;
  if (args.health) work = std::make_unique<HealthChecks>(args, server);
  else
    work =
        std::make_unique<Prompts>(args, server, args.model.empty() ? first_model(server, args, interrupt) : args.model);
  const double cpu_before = cpu_seconds();
  const LoadOptions options{.concurrency = args.concurrency, .count_waiting = args.rate > 0, .timeout = args.timeout};
  ServeReport report = summarize(run_load(server, *work, options, interrupt), limits);
  if (report.seconds > 0) report.client_share = (cpu_seconds() - cpu_before) / report.seconds;
  print(args.json ? report_json(report) : report_table(report));
  if (interrupt.raised()) return kInterruptedStatus;
  if (report.done == 0) throw IoError(cat(args.url, ": no request was answered"));
  return 0;
}

}  // namespace linnet::cli
