#include "train/run_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/errors.h"
#include "core/text.h"
#include "formats/json_fields.h"
#include "formats/mapped_file.h"

namespace linnet::train {
namespace {

using formats::JsonFields;
using nlohmann::ordered_json;

ordered_json number(double x) { return std::isfinite(x) ? ordered_json(x) : ordered_json(); }

double number(const JsonFields& f, std::string_view key) {
  return f.optional_number(key, -HUGE_VAL, HUGE_VAL).value_or(kUnknown);
}

std::string line_of(const StepRecord& r) {
  return ordered_json{{"step", r.step},
                      {"tokens", r.tokens},
                      {"loss", number(r.loss)},
                      {"lr", number(r.lr)},
                      {"grad_norm", number(r.grad_norm)},
                      {"tokens_per_s", number(r.tokens_per_s)},
                      {"gemm_share", number(r.gemm_share)}}
             .dump() +
         "\n";
}

std::string line_of(const EvaluationRecord& r) {
  return ordered_json{{"step", r.step},
                      {"tokens", r.tokens},
                      {"held_out_loss", number(r.loss)},
                      {"bits_per_byte", number(r.bits_per_byte)}}
             .dump() +
         "\n";
}

struct Line {
  int64_t step;
  std::optional<StepRecord> training;
  std::optional<EvaluationRecord> evaluation;
};

Line parse_line(std::string_view text, const std::string& place) {
  const auto f = JsonFields::parse(text, place);
  const int64_t step = f.integer("step", 0, INT64_MAX), tokens = f.integer("tokens", 0, INT64_MAX);
  Line line{.step = step};
  if (f.kind("held_out_loss") != formats::JsonKind::absent) {
    line.evaluation = {step, tokens, number(f, "held_out_loss"), number(f, "bits_per_byte")};
  } else {
    line.training = {step,
                     tokens,
                     number(f, "loss"),
                     number(f, "lr"),
                     number(f, "grad_norm"),
                     number(f, "tokens_per_s"),
                     number(f, "gemm_share")};
  }
  f.refuse_unread_keys();
  return line;
}

// Calls use(line, offset of its end) for each whole line until it says false.
template <class Use>
void for_each_line(const std::filesystem::path& file, Use use) {
  const formats::MappedFile mapped(file);
  const std::string_view text(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  int64_t number = 1;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != text.npos; begin = end + 1, ++number)
    if (!use(parse_line(text.substr(begin, end - begin), cat(file.string(), ": line ", number)),
             static_cast<int64_t>(end + 1)))
      return;
}

void add(const Line& line, RunHistory& history) {
  if (line.training) history.steps.push_back(*line.training);
  if (line.evaluation) history.evaluations.push_back(*line.evaluation);
}

}  // namespace

RunHistory read_run_log(const std::filesystem::path& file) {
  RunHistory history;
  if (!std::filesystem::exists(file)) return history;
  for_each_line(file, [&](const Line& line, int64_t) {
    add(line, history);
    return true;
  });
  return history;
}

RunLog::RunLog(const std::filesystem::path& file, int64_t step) : path_(file) {
  file_ = formats::FileDescriptor(open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (!file_) formats::throw_io_error(path_, "cannot open", errno);
  if (step > 0)
    for_each_line(file, [&](const Line& line, int64_t end) {
      if (line.step > step) return false;
      add(line, history_);
      bytes_ = end;
      return true;
    });
  if (ftruncate(file_.get(), bytes_) != 0) formats::throw_io_error(path_, "cannot cut off what follows", errno);
}

void RunLog::append_line(const std::string& line) {
  const ssize_t n = write(file_.get(), line.data(), line.size());
  if (n == static_cast<ssize_t>(line.size())) {
    bytes_ += n;
    return;
  }
  const int reason = n < 0 ? errno : ENOSPC;
  if (n > 0 && ftruncate(file_.get(), bytes_) != 0) formats::throw_io_error(path_, "cannot cut off half a line", errno);
  formats::throw_io_error(path_, "cannot write a line", reason);
}

void RunLog::append(const StepRecord& record) {
  append_line(line_of(record));
  history_.steps.push_back(record);
}

void RunLog::append(const EvaluationRecord& record) {
  append_line(line_of(record));
  history_.evaluations.push_back(record);
}

void RunLog::sync() {
  if (fsync(file_.get()) != 0) formats::throw_io_error(path_, "cannot bring it to disk", errno);
}

}  // namespace linnet::train
