#include "cli/train.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/trace_table.h"
#include "core/errors.h"
#include "core/text.h"
#include "train/progress_line.h"
#include "train/run.h"

namespace linnet::cli {
namespace {

// The progress of a run: one line that is rewritten on a terminal, else a line every few seconds.
class TrainingLine {
 public:
  void step(const train::StepLine& line) {
    const Clock::time_point now = Clock::now();
    const bool last = line.record.step == line.steps;
    if (!last && shown_ && now - at_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10))) return;
    at_ = now, shown_ = true;
    std::string text = train::progress_line(line.record, line.steps, line.seconds_per_step, terminal_ ? kColumns : 0);
    if (!line.run.empty()) text = cat(line.run, ": ", text);
    print_error(terminal_ ? cat("\r\033[K", text) : text + "\n");
    open_ = terminal_;
  }
  void note(const std::string& line) {
    if (open_) print_error("\r\033[K");
    open_ = false;
    cli::note(line);
  }
  ~TrainingLine() {
    if (open_) print_error("\n");
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int kColumns = 100;
  bool terminal_ = stderr_is_terminal(), shown_ = false, open_ = false;
  Clock::time_point at_;
};

std::string time_of_steps(const Trace& trace, int threads) {
  const auto is_whole = [](const Trace::Entry& e) { return std::string_view(e.name) == train::kWholeStep; };
  std::vector<Trace::Entry> parts = trace.entries();
  const auto whole = std::find_if(parts.begin(), parts.end(), is_whole);
  if (whole == parts.end()) return "no steps were made\n";
  const Trace::Entry steps = *whole;
  parts.erase(whole);
  return cat("where the time of ", steps.calls, " steps on ", threads, " threads went\n",
             trace_table(parts, steps.seconds));
}

}  // namespace

int run_train(const TrainArgs& args) {
  if (args.describe) {
    print(train::train_config_help());
    return 0;
  }
  if (args.config.empty()) throw InvalidArgument("train: expected a configuration file; --describe lists its fields");
  train::TrainConfig config = train::read_train_config(args.config, args.set);
  if (args.threads >= 0) config.threads = args.threads;
  ThreadPool pool(static_cast<int>(config.threads));
  Interrupt interrupt;
  TrainingLine line;
  Trace trace;
  const train::RunEvents events{.note = [&](const std::string& text) { line.note(text); },
                                .step = [&](const train::StepLine& step) { line.step(step); },
                                .stop = [&] { return interrupt.raised(); },
                                .trace = args.trace ? &trace : nullptr};
  const train::RunEnd end = train::run_training(config, args.resume, events, pool);
  if (args.trace) print(time_of_steps(trace, pool.size()));
  return end == train::RunEnd::stopped && interrupt.raised() ? kInterruptedStatus : 0;
}

}  // namespace linnet::cli
