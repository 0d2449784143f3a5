// The report of a run, or of several side by side: one HTML file with curves of loss, learning rate, gradient norm and throughput. It
// holds its own script and style and loads nothing, so it opens from the file system.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "train/run_log.h"

namespace linnet::train {

struct ReportRun {
  std::string name;  // "" when there is one run
  const RunHistory* history = nullptr;
  int64_t n_steps = 0;                                     // of the schedule; 0: unknown
  double seconds = 0;                                      // spent; 0: unknown
  std::vector<std::pair<std::string, std::string>> facts;  // further columns of the table: {"parameters", "12.4 M"}
};

struct Report {
  std::string title;     // "models/verse"
  std::string subtitle;  // one line of plain text
  std::vector<ReportRun> runs;
};

// Long histories are thinned to means over equal numbers of steps (with their least and greatest loss), so that the page stays
// below kMaxReportBytes. Texts are escaped.
constexpr size_t kMaxReportBytes = size_t{1} << 20;
std::string report_html(const Report& report);

void write_report(const std::filesystem::path& file, const Report& report);  // atomically; throws IoError

}  // namespace linnet::train
