#include "train/run.h"

#include <chrono>
#include <cmath>

#include "core/errors.h"
#include "core/text.h"
#include "ops/gemm/gemm_rates.h"
#include "train/progress_line.h"
#include "train/report.h"
#include "train/run_log.h"

namespace linnet::train {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kLogFile = "log.jsonl";
constexpr const char* kReportFile = "report.html";
// The rate of products is measured for runs that take more FLOP than this: some ten times what measuring takes.
constexpr double kWorthMeasuring = 1e12;
constexpr double kSpeedDecay = 0.9;  // of the mean time of a step that is shown

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The ids of the special tokens that the run depends on.
struct SpecialIds {
  int32_t marker = -1;       // of data.loss_after; -1: none
  std::vector<int64_t> end;  // of the token after each document
};

SpecialIds special_ids(const TrainConfig& config, const TokenShards& shards) {
  SpecialIds ids;
  if (shards.tokenizer_folder().empty()) {
    if (config.data.loss_after.empty()) return ids;
    throw InvalidArgument(cat("data.loss_after: ", shards.dir().string(), " has no tokenizer to look it up in"));
  }
  const auto tokenizer = formats::Tokenizer::load(shards.tokenizer_folder());
  if (const auto end = tokenizer.special_id(shards.end_token())) ids.end = {*end};
  if (config.data.loss_after.empty()) return ids;
  const std::optional<formats::TokenId> marker = tokenizer.special_id(config.data.loss_after);
  if (!marker)
    throw InvalidArgument(cat("data.loss_after: expected the name of a special token of ",
                              shards.tokenizer_folder().string(), ", got \"", printable(config.data.loss_after, 60),
                              "\""));
  ids.marker = *marker;
  return ids;
}

// One model from start to end.
class Run {
 public:
  Run(const TrainConfig& config, const RunConfig& run, const TokenShards& shards, const RunEvents& events,
      double& gemm_rate, ThreadPool& pool)
      : config_(config),
        run_(run),
        shards_(shards),
        events_(events),
        gemm_rate_(gemm_rate),
        pool_(pool),
        folder_(run.name.empty() ? config.checkpoint.folder : config.checkpoint.folder / run.name) {}

  RunEnd train(bool resume) {
    const std::optional<SavedCheckpoint> saved = latest_checkpoint(folder_.path());
    if (saved && !resume)
      throw InvalidArgument(cat(folder_.path().string(), ": expected a folder without checkpoints, got one with step ",
                                saved->step, "; --resume goes on from there"));
    plan_memory();
    const SpecialIds special = special_ids(config_, shards_);
    if (run_.model.config.eos_ids.empty()) run_.model.config.eos_ids = special.end;  // for whoever generates from it
    Trainer trainer(config_, run_, shards_, special.marker, pool_);
    if (saved) {
      trainer.restore(load_checkpoint(*saved));
      note(cat("going on from ", saved->path.string()));
    }
    RunLog log(folder_.path() / kLogFile, trainer.steps_done());
    last_saved_ = trainer.steps_done(), saved_at_ = Clock::now();
    const double tokens =
        static_cast<double>((config_.schedule.steps - trainer.steps_done()) * config_.data.batch_tokens);
    if (std::isnan(gemm_rate_) && tokens * trainer.flops_per_token() > kWorthMeasuring)
      gemm_rate_ = ops::measure_gemm_rate(pool_, config_.precision);
    try {
      return loop(trainer, log);
    } catch (...) {
      write_report(trainer, log);  // what there is to see of a run that has failed
      throw;
    }
  }

 private:
  RunEnd loop(Trainer& trainer, RunLog& log) {
    const int64_t last =
        config_.stop_step > 0 ? std::min(config_.stop_step, config_.schedule.steps) : config_.schedule.steps;
    bool stopped = false;
    while (trainer.steps_done() < last && !stopped) {
      const Clock::time_point start = Clock::now();
      const StepResult result = traced_step(trainer);
      const double seconds = seconds_since(start);
      seconds_per_step_ =
          seconds_per_step_ == 0 ? seconds : kSpeedDecay * seconds_per_step_ + (1 - kSpeedDecay) * seconds;
      report_step(trainer, result, log);
      stopped = events_.stop && events_.stop();
      const bool at_end = result.step == last || stopped;
      if (due(result.step, config_.evaluation.every_steps) ||
          (result.step == last && config_.evaluation.every_steps > 0))
        evaluate(trainer, log);
      if (at_end || due(result.step, config_.checkpoint.every_steps) ||
          (config_.checkpoint.every_minutes > 0 && seconds_since(saved_at_) > 60 * config_.checkpoint.every_minutes))
        save(trainer, log);
    }
    write_report(trainer, log);
    if (last_saved_ != trainer.steps_done())
      throw IoError(cat("the end of the run at step ", trainer.steps_done(), " is not saved: ", not_saved_));
    return trainer.steps_done() < config_.schedule.steps ? RunEnd::stopped : RunEnd::finished;
  }

  StepResult traced_step(Trainer& trainer) {
    if (!events_.trace) return trainer.step();
    const Trace::Use use(*events_.trace);
    const Trace::Scope scope(kWholeStep);
    return trainer.step();
  }

  static bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

  void plan_memory() {
    const model::KimiLinear probe(run_.model.config, DType::f32);
    n_parameters_ = probe.table().parameters();
    const TrainingMemory memory = plan_training_memory(probe, config_);
    note(cat("memory\n", memory.table()));
    require_training_memory(memory, available_memory_bytes());
    if (shards_.identity().vocab_size > run_.model.config.vocab_size)
      throw InvalidArgument(cat(shards_.dir().string(), ": expected token ids below the model's vocab_size ",
                                run_.model.config.vocab_size, ", got ids up to ", shards_.identity().vocab_size - 1));
  }

  void report_step(const Trainer& trainer, const StepResult& r, RunLog& log) {
    const double speed = static_cast<double>(r.tokens) / seconds_per_step_;
    const StepRecord record{.step = r.step,
                            .tokens = r.step * config_.data.batch_tokens,
                            .loss = r.loss,
                            .lr = r.rate_factor * config_.optimizer.muon.lr,
                            .grad_norm = r.grad_norm,
                            .tokens_per_s = speed,
                            .gemm_share = speed * trainer.flops_per_token() / gemm_rate_};
    try {
      log.append(record);
    } catch (const IoError& e) { note(e.what()); }
    if (events_.step)
      events_.step({.run = run_.name,
                    .record = record,
                    .result = r,
                    .steps = config_.schedule.steps,
                    .seconds_per_step = seconds_per_step_});
  }

  void evaluate(Trainer& trainer, RunLog& log) {
    const Evaluation e = trainer.evaluate();
    if (e.tokens == 0) return;
    const int64_t step = trainer.steps_done();
    char text[160];
    std::snprintf(text, sizeof text, "step %lld: held-out loss %.4f a token, %.4f bits a byte",
                  static_cast<long long>(step), e.loss, e.bits_per_byte);
    note(text);
    try {
      log.append(EvaluationRecord{
          .step = step, .tokens = step * config_.data.batch_tokens, .loss = e.loss, .bits_per_byte = e.bits_per_byte});
    } catch (const IoError& error) { note(error.what()); }
    write_report(trainer, log);
  }

  // A disk that is full costs this checkpoint, not the run.
  void save(const Trainer& trainer, RunLog& log) {
    if (trainer.steps_done() == last_saved_) return;
    saved_at_ = Clock::now();
    try {
      log.sync();
      const fs::path path = save_checkpoint(folder_, trainer.contents(), config_.checkpoint.keep);
      last_saved_ = trainer.steps_done();
      note(cat("saved ", path.string()));
    } catch (const IoError& e) {
      not_saved_ = e.what();
      note(not_saved_);
    }
  }

  void write_report(const Trainer& trainer, const RunLog& log) {
    try {
      train::write_report(
          folder_.path() / kReportFile,
          {.title = folder_.path().string(),
           .subtitle = cat(count_text(static_cast<uint64_t>(n_parameters_)), " parameters, ",
                           count_text(static_cast<uint64_t>(config_.data.batch_tokens)), " tokens a step"),
           .runs = {{.name = run_.name,
                     .history = &log.history(),
                     .n_steps = config_.schedule.steps,
                     .seconds = trainer.seconds()}}});
    } catch (const IoError& e) { note(e.what()); }
  }

  void note(const std::string& line) const {
    if (events_.note) events_.note(run_.name.empty() ? line : cat(run_.name, ": ", line));
  }

  const TrainConfig& config_;
  RunConfig run_;
  const TokenShards& shards_;
  const RunEvents& events_;
  double& gemm_rate_;  // FLOP/s of large products; unknown until a run measures it
  ThreadPool& pool_;
  RunFolder folder_;
  double seconds_per_step_ = 0;
  int64_t last_saved_ = 0, n_parameters_ = 0;
  std::string not_saved_;  // why the last attempt failed
  Clock::time_point saved_at_;
};

}  // namespace

// The curves of all runs so far in one page.
static void write_comparison(const TrainConfig& config, const RunEvents& events) {
  std::vector<RunHistory> histories;
  Report report{.title = config.checkpoint.folder.string(), .subtitle = "the same batches for every run", .runs = {}};
  for (const RunConfig& run : config.runs)
    histories.push_back(read_run_log(config.checkpoint.folder / run.name / kLogFile));
  for (size_t i = 0; i < histories.size(); ++i)
    if (!histories[i].steps.empty())
      report.runs.push_back({.name = config.runs[i].name, .history = &histories[i], .n_steps = config.schedule.steps});
  try {
    train::write_report(config.checkpoint.folder / kReportFile, report);
  } catch (const IoError& e) {
    if (events.note) events.note(e.what());
  }
}

RunEnd run_training(const TrainConfig& config, bool resume, const RunEvents& events, ThreadPool& pool) {
  const TokenShards shards = TokenShards::open(config.data.folder);
  double gemm_rate = kUnknown;
  for (const RunConfig& run : config.runs) {
    const RunEnd end = Run(config, run, shards, events, gemm_rate, pool).train(resume);
    if (config.runs.size() > 1) write_comparison(config, events);
    if (end == RunEnd::stopped) return end;
  }
  return RunEnd::finished;
}

}  // namespace linnet::train
