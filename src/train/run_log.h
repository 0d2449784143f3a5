// The log of a run, log.jsonl: one line of JSON for each step and each evaluation.
//   {"step": 12, "tokens": 196608, "loss": 5.01, "lr": 0.002, "grad_norm": 0.7, "tokens_per_s": 5120, "gemm_share": 0.31}
//   {"step": 12, "tokens": 196608, "held_out_loss": 5.2, "bits_per_byte": 1.9}
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "formats/posix_file.h"

namespace linnet::train {

constexpr double kUnknown =
    std::numeric_limits<double>::quiet_NaN();  // null in the file, as is any number that is not finite

struct StepRecord {
  int64_t step = 0;
  int64_t tokens = 0;  // trained on since the beginning
  double loss = kUnknown, lr = kUnknown, grad_norm = kUnknown, tokens_per_s = kUnknown;
  double gemm_share = kUnknown;  // FLOP/s as a share of the GEMM rate
};

struct EvaluationRecord {
  int64_t step = 0;
  int64_t tokens = 0;
  double loss = kUnknown;           // mean over the held-out tokens, nats
  double bits_per_byte = kUnknown;  // of their text
};

struct RunHistory {
  std::vector<StepRecord> steps;
  std::vector<EvaluationRecord> evaluations;
};

// Reads a log. A last line that is not whole, as a killed process leaves it, does not count; a file that does not exist is
// empty. Throws IoError, and FormatError "FILE: line 7: ..." for any other line that is not of the form above.
RunHistory read_run_log(const std::filesystem::path& file);

class RunLog {
 public:
  // Keeps the lines up to `step`, from which the run goes on, and cuts off what follows, whatever it is. 0: a new log.
  RunLog(const std::filesystem::path& file, int64_t step);

  // One line, in one write: when the disk takes only a part of it, that part is cut off again and IoError thrown; the log can
  // be used further. Steps must not go back.
  void append(const StepRecord& record);
  void append(const EvaluationRecord& record);
  void sync();  // to disk, before a checkpoint is written: its step can then be gone on from; throws IoError

  const RunHistory& history() const { return history_; }

 private:
  void append_line(const std::string& line);

  std::filesystem::path path_;
  formats::FileDescriptor file_;
  int64_t bytes_ = 0;
  RunHistory history_;
};

}  // namespace linnet::train
