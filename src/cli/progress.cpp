#include "cli/progress.h"

#include <cstdio>

#include "cli/output.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

constexpr std::chrono::milliseconds kFirst{300}, kInterval{100};

std::string amount(int64_t n, const std::string& unit) {
  return unit == "bytes" ? bytes_text(static_cast<uint64_t>(n)) : count_text(static_cast<uint64_t>(n));
}

}  // namespace

ProgressLine::ProgressLine(std::string what, std::string unit)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      enabled_(stderr_is_terminal()),
      start_(Clock::now()),
      next_(start_ + kFirst) {}

ProgressLine::~ProgressLine() { erase(); }

void ProgressLine::update(int64_t done, int64_t total) {
  if (Clock::now() >= next_) show(done, total);
}

void ProgressLine::show(int64_t done, int64_t total) {
  if (!enabled_) return;
  const Clock::time_point now = Clock::now();
  next_ = now + kInterval;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  std::string line = cat("\r\x1b[K", what_);
  if (total > 0) {
    char share[32];
    std::snprintf(share, sizeof share, " %3.0f %%", 100.0 * static_cast<double>(done) / static_cast<double>(total));
    line += cat(share, "  ", amount(done, unit_), " / ", amount(total, unit_), unit_ == "bytes" ? "" : " " + unit_);
  }
  if (done > 0) {
    const double rate = static_cast<double>(done) / seconds;
    line += cat("  ", amount(static_cast<int64_t>(rate), unit_), "/s");
    if (total > done) line += cat("  ", static_cast<int64_t>(static_cast<double>(total - done) / rate) + 1, " s left");
  }
  print_error(line);
  shown_ = true;
}

void ProgressLine::erase() {
  if (shown_) print_error("\r\x1b[K");
  shown_ = false;
}

}  // namespace linnet::cli
