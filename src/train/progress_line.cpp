#include "train/progress_line.h"

#include <cmath>
#include <cstdio>
#include <vector>

#include "core/text.h"

namespace linnet::train {
namespace {

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string whole(double value) { return count_text(static_cast<uint64_t>(std::llround(value))); }

}  // namespace

std::string duration_text(double seconds) {
  if (!(seconds >= 0) || seconds > 1e12) return "unknown";
  const auto s = static_cast<int64_t>(std::ceil(seconds));
  if (s < 60) return cat(s, " s");
  if (s < 3600) return cat(s / 60, " min ", s % 60, " s");
  const int64_t min = (s + 59) / 60;
  if (min < 24 * 60) return cat(min / 60, " h ", min % 60, " min");
  const int64_t h = (min + 59) / 60;
  return cat(h / 24, " d ", h % 24, " h");
}

std::string progress_line(const StepRecord& r, int64_t n_steps, double seconds_per_step, int columns) {
  std::vector<std::string> parts;
  if (n_steps > 0)
    parts.push_back(
        formatted("%3.0f %%", std::floor(100 * static_cast<double>(r.step) / static_cast<double>(n_steps))));
  parts.push_back(cat("step ", count_text(static_cast<uint64_t>(r.step)),
                      n_steps > 0 ? " / " + count_text(static_cast<uint64_t>(n_steps)) : ""));
  parts.push_back(std::isfinite(r.loss) ? formatted("loss %.3f", r.loss) : "loss nan");
  if (r.tokens_per_s > 0 && std::isfinite(r.tokens_per_s)) parts.push_back(whole(r.tokens_per_s) + " tokens/s");
  if (std::isfinite(r.gemm_share)) parts.push_back(formatted("%.0f %% of the GEMM rate", 100 * r.gemm_share));
  if (seconds_per_step > 0 && n_steps > r.step)
    parts.push_back(duration_text(seconds_per_step * static_cast<double>(n_steps - r.step)) + " left");
  std::string line = "train";
  for (const std::string& part : parts) {
    const std::string longer = cat(line, "  ", part);
    if (columns > 0 && std::ssize(longer) > columns) break;
    line = longer;
  }
  return line;
}

}  // namespace linnet::train
