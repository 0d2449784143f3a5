#include "cli/trace_table.h"

#include <algorithm>
#include <vector>

#include "cli/formatted.h"
#include "core/text.h"

namespace linnet::cli {

std::string trace_table(std::span<const Trace::Entry> parts, double seconds) {
  std::vector<Trace::Entry> rows(parts.begin(), parts.end());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  double rest = seconds;
  std::string out;
  const auto add = [&](const char* name, const std::string& calls, double of_it) {
    out += formatted("%-20s %14s %10.3f s %6.1f %%\n", name, calls.c_str(), of_it,
                     seconds > 0 ? 100 * of_it / seconds : 0);
  };
  for (const Trace::Entry& row : rows) add(row.name, cat(row.calls, " calls"), row.seconds), rest -= row.seconds;
  add("the rest", "", rest);
  return out;
}

}  // namespace linnet::cli
