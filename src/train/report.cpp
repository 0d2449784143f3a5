// A report's table and the numbers behind its curves.
#include "train/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>

#include "core/errors.h"
#include "core/text.h"
#include "formats/atomic_file.h"
#include "train/progress_line.h"
#include "train/report_page.h"

namespace linnet::train {
namespace {

// A point of a curve is about 80 bytes and an evaluation 40, so 4,500 points of all runs together are less than half a megabyte.
constexpr size_t kAllPoints = 4500, kMostPoints = 1500, kFewestPoints = 60;
constexpr int64_t kLastSteps = 100;  // whose mean loss stands in the table

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '&') out += "&amp;";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '"') out += "&quot;";
    else if (c == '{') out += "&#123;";  // no text makes a mark of the page
    else out += c;
  }
  return out;
}

// A JSON string that also an HTML parser takes for text.
std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (char c : text) {
    const auto code = static_cast<unsigned char>(c);
    char hex[8];
    std::snprintf(hex, sizeof hex, "\\u%04x", code);
    if (code < 0x20 || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' || c == '{') out += hex;
    else out += c;
  }
  return out + "\"";
}

std::string digits(double x, const char* format = "%.5g") {
  if (!std::isfinite(x)) return "null";
  char text[40];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

struct Range {
  size_t begin, end;
};

// n items in at most n_parts runs of almost equal length.
std::vector<Range> parts_of(size_t n, size_t n_parts) {
  n_parts = std::min(n, n_parts);
  std::vector<Range> parts;
  for (size_t i = 0; i < n_parts; ++i) parts.push_back({i * n / n_parts, (i + 1) * n / n_parts});
  return parts;
}

// Mean, least and greatest of the finite values of a part.
struct Summary {
  double mean = kUnknown, low = kUnknown, high = kUnknown;
};
template <class Record>
Summary summary_of(const std::vector<Record>& records, Range part, double Record::*field) {
  Summary s;
  double sum = 0;
  int64_t n = 0;
  for (size_t i = part.begin; i < part.end; ++i) {
    const double x = records[i].*field;
    if (!std::isfinite(x)) continue;
    s.low = n ? std::min(s.low, x) : x;
    s.high = n ? std::max(s.high, x) : x;
    sum += x, ++n;
  }
  if (n) s.mean = sum / static_cast<double>(n);
  return s;
}

template <class Item>
std::string array_of(const std::vector<Range>& parts, Item item) {
  std::string out = "[";
  for (const Range& part : parts) out += cat(out.size() > 1 ? "," : "", item(part));
  return out + "]";
}

// {"name": .., "step": [..], "tokens": [..], "loss": [..], ..., "eval": {...}}: one number for each part.
std::string data_of(const ReportRun& run, size_t n_points) {
  const RunHistory& h = *run.history;
  const auto parts = parts_of(h.steps.size(), n_points), evals = parts_of(h.evaluations.size(), n_points / 2);
  const auto steps = [&](double StepRecord::*field, double Summary::*which) {
    return array_of(parts, [&](Range p) { return digits(summary_of(h.steps, p, field).*which); });
  };
  const auto evaluations = [&](double EvaluationRecord::*field) {
    return array_of(evals, [&](Range p) { return digits(summary_of(h.evaluations, p, field).mean); });
  };
  const bool thinned = parts.size() < h.steps.size();
  return cat(
      "{\"name\":", json_text(run.name), ",\"per_point\":",
      digits(static_cast<double>(h.steps.size()) / static_cast<double>(std::max<size_t>(parts.size(), 1)), "%.3g"),
      ",\"step\":", array_of(parts, [&](Range p) { return h.steps[p.end - 1].step; }),
      ",\"tokens\":", array_of(parts, [&](Range p) { return h.steps[p.end - 1].tokens; }),
      ",\"loss\":", steps(&StepRecord::loss, &Summary::mean),
      ",\"low\":", thinned ? steps(&StepRecord::loss, &Summary::low) : "null",
      ",\"high\":", thinned ? steps(&StepRecord::loss, &Summary::high) : "null",
      ",\"lr\":", steps(&StepRecord::lr, &Summary::mean),
      ",\"grad_norm\":", steps(&StepRecord::grad_norm, &Summary::mean),
      ",\"tokens_per_s\":", steps(&StepRecord::tokens_per_s, &Summary::mean),
      ",\"gemm_share\":", steps(&StepRecord::gemm_share, &Summary::mean),
      ",\"eval\":{\"step\":", array_of(evals, [&](Range p) { return h.evaluations[p.end - 1].step; }),
      ",\"tokens\":", array_of(evals, [&](Range p) { return h.evaluations[p.end - 1].tokens; }),
      ",\"loss\":", evaluations(&EvaluationRecord::loss),
      ",\"bits_per_byte\":", evaluations(&EvaluationRecord::bits_per_byte), "}}");
}

std::string grouped(int64_t n) { return count_text(static_cast<uint64_t>(n)); }

struct Column {
  const char* head;
  std::function<std::string(const ReportRun&)> cell;  // "" where unknown
};

std::string last_loss(const ReportRun& run) {
  const auto& steps = run.history->steps;
  const size_t n = std::min<size_t>(steps.size(), kLastSteps);
  const double mean = summary_of(steps, {steps.size() - n, steps.size()}, &StepRecord::loss).mean;
  return std::isfinite(mean) ? digits(mean, "%.4f") : "";
}

std::string best_loss(const ReportRun& run) {
  const EvaluationRecord* best = nullptr;
  for (const EvaluationRecord& e : run.history->evaluations)
    if (std::isfinite(e.loss) && (!best || e.loss < best->loss)) best = &e;
  return best ? cat(digits(best->loss, "%.4f"), " <small>at ", grouped(best->step), "</small>") : "";
}

template <class Record>
std::string last_of(const std::vector<Record>& records, double Record::*field, const char* format, double scale = 1) {
  if (records.empty() || !std::isfinite(records.back().*field)) return "";
  return digits(records.back().*field * scale, format);
}

const std::vector<Column>& columns() {
  static const std::vector<Column> all = {
      {"run", [](const ReportRun& r) { return escaped(r.name); }},
      {"step",
       [](const ReportRun& r) {
         const int64_t step = r.history->steps.empty() ? 0 : r.history->steps.back().step;
         return cat(grouped(step), r.n_steps > 0 ? " <small>/ " + grouped(r.n_steps) + "</small>" : "");
       }},
      {"tokens",
       [](const ReportRun& r) { return r.history->steps.empty() ? "" : grouped(r.history->steps.back().tokens); }},
      {"loss, last 100 steps", last_loss},
      {"held-out loss",
       [](const ReportRun& r) { return last_of(r.history->evaluations, &EvaluationRecord::loss, "%.4f"); }},
      {"best held-out", best_loss},
      {"bits per byte",
       [](const ReportRun& r) { return last_of(r.history->evaluations, &EvaluationRecord::bits_per_byte, "%.4f"); }},
      {"tokens/s",
       [](const ReportRun& r) {
         const auto& s = r.history->steps;
         return s.empty() || !(s.back().tokens_per_s >= 0) ? "" : grouped(std::llround(s.back().tokens_per_s));
       }},
      {"of the GEMM rate",
       [](const ReportRun& r) { return last_of(r.history->steps, &StepRecord::gemm_share, "%.0f %%", 100); }},
      {"time", [](const ReportRun& r) { return r.seconds > 0 ? duration_text(r.seconds) : ""; }},
  };
  return all;
}

std::string summary_table(const std::vector<ReportRun>& runs) {
  std::vector<std::pair<std::string, std::vector<std::string>>>
      shown;  // head, cells; a column without any cell is left out
  const auto add = [&](std::string head, auto cell) {
    std::vector<std::string> cells;
    for (const ReportRun& run : runs) cells.push_back(cell(run));
    if (std::any_of(cells.begin(), cells.end(), [](const auto& c) { return !c.empty(); }))
      shown.emplace_back(std::move(head), std::move(cells));
  };
  for (const Column& column : columns()) add(column.head, column.cell);
  std::vector<std::string> facts;
  for (const ReportRun& run : runs)
    for (const auto& [name, value] : run.facts)
      if (std::find(facts.begin(), facts.end(), name) == facts.end()) facts.push_back(name);
  for (const std::string& fact : facts)
    add(escaped(fact), [&](const ReportRun& run) {
      for (const auto& [name, value] : run.facts)
        if (name == fact) return escaped(value);
      return std::string();
    });
  std::string head, body;
  for (const auto& [name, cells] : shown) head += cat("<th>", name, "</th>");
  for (size_t i = 0; i < runs.size(); ++i) {
    body += cat("<tr style=\"--run:var(--c", i % 8, ")\">");
    for (const auto& [name, cells] : shown) body += cat("<td>", cells[i], "</td>");
    body += "</tr>";
  }
  return cat("<thead><tr>", head, "</tr></thead><tbody>", body, "</tbody>");
}

void put(std::string& page, std::string_view mark, const std::string& text) {
  const size_t at = page.find(mark);
  if (at == page.npos) throw InternalError(cat("report: ", mark, ": expected the mark in the page"));
  page.replace(at, mark.size(), text);
}

}  // namespace

std::string report_html(const Report& report) {
  const size_t n_points = std::clamp(kAllPoints / std::max<size_t>(report.runs.size(), 1), kFewestPoints, kMostPoints);
  std::string data = "[";
  for (const ReportRun& run : report.runs) data += cat(data.size() > 1 ? ",\n" : "", data_of(run, n_points));
  std::string page = kReportPage;
  put(page, "{{data}}", data + "]");
  put(page, "{{summary}}", summary_table(report.runs));
  put(page, "{{subtitle}}", escaped(report.subtitle));
  put(page, "{{title}}", escaped(report.title));
  put(page, "{{title}}", escaped(report.title));
  return page;
}

void write_report(const std::filesystem::path& file, const Report& report) {
  formats::AtomicFile out(file);
  out.append(report_html(report));
  out.commit();
}

}  // namespace linnet::train
