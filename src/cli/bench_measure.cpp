#include "cli/bench_measure.h"

#include <algorithm>
#include <chrono>

#include "core/errors.h"
#include "core/rng.h"
#include "core/text.h"
#include "model/parameter_counts.h"
#include "ops/gemm/gemm_rates.h"

namespace linnet::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kFirstTokenRuns = 5;
constexpr int64_t kCoreTokens[] = {4096, 65536};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Spread spread_of(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

DType weight_dtype(const model::KimiLinear& model) {
  for (const model::TensorRow& row : model.table().rows())
    if (row.matrix) return row.matrix->w.dtype;
  return model.config().dtype;
}

class Bench {
 public:
  Bench(runtime::Engine& engine, const BenchArgs& args, const BenchProgress& progress)
      : engine_(engine), args_(args), progress_(progress), base_(engine.new_slot()), work_(engine.new_slot()) {}

  BenchResult run(const std::vector<int64_t>& depths) {
    append(work_, 0, 64, model::Step::prefill, runtime::Want::last, "warm-up");  // pages and threads are there
    reset_peak_memory();
    for (int64_t depth : depths) {
      fill_to(depth);
      measure_prefill(depth);
      measure_decode(depth);
    }
    if (result_.fills.empty()) result_.fills.push_back(first_prompt_);  // nothing was read before the prompts
    note_memory();
    result_.weight_bytes = engine_.memory_plan().weight_bytes;
    result_.state_bytes = static_cast<int64_t>(base_.bytes() + work_.bytes());
    progress_("KDA core alone", 0, 0);
    result_.core_alone =
        measure_kda_core(engine_.config(), engine_.tokens_per_pass(), {kCoreTokens[0], kCoreTokens[1]}, engine_.pool());
    measure_first_token();
    return std::move(result_);
  }

 private:
  // The peak so far; what a floor's measurement takes is not the model's.
  void note_memory() {
    const int64_t peak = std::max(result_.memory.peak, resident_memory().peak);
    result_.memory = resident_memory();
    result_.memory.peak = peak;
  }

  double read_bandwidth() {
    note_memory();
    const double rate = ops::measure_read_bandwidth(engine_.pool());
    reset_peak_memory();
    result_.floors.read_bytes_per_second = std::max(result_.floors.read_bytes_per_second, rate);
    return rate;
  }

  double gemm_rate() {
    note_memory();
    const double rate = ops::measure_gemm_rate(engine_.pool(), weight_dtype(*engine_.loaded().model));
    reset_peak_memory();
    result_.floors.gemm_flops_per_second = std::max(result_.floors.gemm_flops_per_second, rate);
    return rate;
  }

  // Appends the tokens [first, first + count) of the one random sequence that all measurements read.
  void append(runtime::StateSlot& slot, int64_t first, int64_t count, model::Step step, runtime::Want want,
              const std::string& what) {
    std::vector<int32_t> ids;
    const auto vocab = static_cast<uint64_t>(engine_.config().vocab_size);
    for (int64_t i = first; i < first + count; ++i)
      ids.push_back(static_cast<int32_t>(Rng(1).bits(static_cast<uint64_t>(i)) % vocab));
    const runtime::Append request{
        .slot = &slot, .tokens = ids, .want = want, .step = args_.by_cost ? model::Step::cheapest : step};
    engine_.append(
        {&request, 1}, [](size_t, int64_t, Tensor) {},
        [&](int64_t done, int64_t total) {
          if (!what.empty()) progress_(what, done, total);
          return true;
        });
  }

  // Grows the sequence that the measurements start from; its parts' times are summed from its beginning.
  void fill_to(int64_t depth) {
    const Trace::Use use(trace_);
    const auto start = Clock::now();
    append(base_, base_.n_tokens(), depth - base_.n_tokens(), model::Step::prefill, runtime::Want::nothing,
           cat("fill to ", depth));
    fill_seconds_ += seconds_since(start);
    if (depth == 0) return;
    result_.fills.push_back({depth, fill_seconds_, trace_.entries(), trace_.seconds("kda core")});
  }

  void measure_prefill(int64_t depth) {
    const model::PrefillCost cost = model::prefill_cost(*engine_.loaded().model, depth, args_.prompt);
    std::vector<double> seconds, ratios;
    for (int r = 0; r < args_.repetitions; ++r) {
      const double rate = gemm_rate();
      work_.copy_from(base_);
      Trace parts;
      const Trace::Use use(parts);
      const auto start = Clock::now();
      append(work_, depth, args_.prompt, model::Step::prefill, runtime::Want::last, cat("prompt at ", depth));
      seconds.push_back(seconds_since(start));
      if (depth == 0) first_prompt_ = {args_.prompt, seconds.back(), parts.entries(), parts.seconds("kda core")};
      ratios.push_back(cost.total() / rate / seconds.back());
    }
    result_.prefill.push_back({depth, args_.prompt, spread_of(seconds), spread_of(ratios).median, cost});
  }

  void measure_decode(int64_t depth) {
    const model::DecodeCost cost = model::decode_cost(*engine_.loaded().model, depth + args_.decode / 2);
    std::vector<double> seconds, ratios;
    for (int r = 0; r < args_.repetitions; ++r) {
      const double bandwidth = read_bandwidth();
      work_.copy_from(base_);
      append(work_, depth, 1, model::Step::decode, runtime::Want::last, "");
      const auto start = Clock::now();
      for (int64_t i = 1; i <= args_.decode; ++i)
        append(work_, depth + i, 1, model::Step::decode, runtime::Want::last, "");
      seconds.push_back(seconds_since(start) / static_cast<double>(args_.decode));
      ratios.push_back(static_cast<double>(cost.total()) / bandwidth / seconds.back());
      progress_(cat("decode at ", depth), r + 1, args_.repetitions);
    }
    result_.decode.push_back({depth, args_.decode, spread_of(seconds), spread_of(ratios).median, cost});
  }

  void measure_first_token() {
    if (!std::filesystem::exists(args_.engine.model / "tiktoken.model")) return;
    std::vector<std::string> command = {
        "generate",     "--model",        args_.engine.model.string(), "-p", "a", "-n", "1", "--temperature", "0",
        "--ignore-eos", "--show-specials"};
    if (args_.engine.threads > 0) command.insert(command.end(), {"--threads", std::to_string(args_.engine.threads)});
    std::vector<double> seconds;
    for (int r = 0; r < kFirstTokenRuns; ++r) {
      progress_("first token", r, kFirstTokenRuns);
      if (const std::optional<double> s = seconds_to_first_output(command)) seconds.push_back(*s);
    }
    if (!seconds.empty()) result_.first_token_seconds = spread_of(std::move(seconds)).median;
  }

  runtime::Engine& engine_;
  const BenchArgs& args_;
  const BenchProgress& progress_;
  runtime::StateSlot base_, work_;
  Trace trace_;
  double fill_seconds_ = 0;
  FillResult first_prompt_;  // the last of the prompts read at depth 0
  BenchResult result_;
};

std::vector<int64_t> depths_of(const BenchArgs& args, int64_t context) {
  const int64_t longest = std::max(args.prompt, args.decode + 1);
  std::vector<int64_t> depths = args.depths;
  if (depths.empty())
    for (int64_t depth : {0, 4096, 16384})
      if (depth + longest <= context) depths.push_back(depth);
  std::sort(depths.begin(), depths.end());
  if (depths.empty() || depths.front() < 0 || depths.back() + longest > context)
    throw InvalidArgument(cat("--depths: expected depths that leave ", longest, " tokens of the context ", context,
                              ", got ", depths.empty() ? "none" : std::to_string(depths.back())));
  return depths;
}

}  // namespace

BenchResult measure(runtime::Engine& engine, const BenchArgs& args, const BenchProgress& progress) {
  if (args.prompt < 1) throw InvalidArgument(cat("--prompt: expected 1 or more tokens, got ", args.prompt));
  if (args.decode < 1) throw InvalidArgument(cat("--decode: expected 1 or more tokens, got ", args.decode));
  if (args.repetitions < 1) throw InvalidArgument(cat("--repetitions: expected 1 or more, got ", args.repetitions));
  return Bench(engine, args, progress).run(depths_of(args, engine.context()));
}

}  // namespace linnet::cli
