// The report: its numbers, its size, and that it needs nothing from outside.
#include "train/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/rng.h"
#include "formats/file_test_support.h"

namespace linnet::train {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

RunHistory history(int64_t n_steps, int64_t evaluate_every) {
  RunHistory h;
  const Rng rng(3);
  for (int64_t step = 1; step <= n_steps; ++step) {
    const double loss =
        3 + 6 * std::exp(-static_cast<double>(step) / 300) + 0.1 * rng.normal(static_cast<uint64_t>(step));
    h.steps.push_back({.step = step,
                       .tokens = step * 16384,
                       .loss = loss,
                       .lr = 2e-3,
                       .grad_norm = 0.5,
                       .tokens_per_s = 5000,
                       .gemm_share = 0.3});
    if (step % evaluate_every == 0) h.evaluations.push_back({step, step * 16384, loss + 0.2, loss / 2});
  }
  return h;
}

json data_of(const std::string& page) {
  const std::string mark = "id=\"data\">";
  const size_t begin = page.find(mark) + mark.size();
  return json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

TEST(report, a_short_run_is_shown_as_it_is) {
  const RunHistory h = history(10, 4);
  const json data = data_of(report_html({"a run", "", {{.history = &h, .n_steps = 20}}}));
  ASSERT_EQ(data.size(), 1u);
  EXPECT_EQ(data[0]["step"], (json{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(data[0]["eval"]["step"], (json{4, 8}));
  EXPECT_NEAR(data[0]["loss"][6], h.steps[6].loss, 1e-4 * h.steps[6].loss);  // five digits
  EXPECT_NEAR(data[0]["eval"]["loss"][1], h.evaluations[1].loss, 1e-4 * h.evaluations[1].loss);
  EXPECT_TRUE(data[0]["low"].is_null());
  EXPECT_EQ(data[0]["tokens"][9], 163840);
}

TEST(report, a_long_run_is_thinned_to_means) {
  RunHistory h = history(10000, 100);
  for (size_t i = 0; i < h.steps.size(); ++i) h.steps[i].loss = static_cast<double>(i % 7);
  h.steps[5].loss = kUnknown;
  const json run = data_of(report_html({"a run", "", {{.history = &h}}}))[0];
  const size_t n = run["step"].size();
  EXPECT_EQ(n, 1500u);
  EXPECT_EQ(run["step"][n - 1], 10000);
  for (const char* key : {"tokens", "loss", "low", "high", "lr", "grad_norm", "tokens_per_s", "gemm_share"})
    EXPECT_EQ(run[key].size(), n) << key;
  EXPECT_EQ(run["step"][0], 6);
  EXPECT_DOUBLE_EQ(run["loss"][0], 2);  // steps 1 to 6: 0 1 2 3 4 and one that is unknown
  EXPECT_EQ(run["low"][0], 0);
  EXPECT_EQ(run["high"][0], 4);
}

TEST(report, stays_small) {
  const RunHistory h = history(300'000, 50);
  for (size_t n_runs : {1u, 3u, 40u}) {
    Report report{.title = "long"};
    for (size_t i = 0; i < n_runs; ++i) report.runs.push_back({.name = "run " + std::to_string(i), .history = &h});
    EXPECT_LT(report_html(report).size(), kMaxReportBytes) << n_runs;
  }
}

TEST(report, nothing_recorded_is_a_page_too) {
  const RunHistory none;
  const std::string page = report_html({"empty", "", {{.history = &none, .n_steps = 5}}});
  EXPECT_EQ(data_of(page)[0]["step"].size(), 0u);
  EXPECT_THAT(page, HasSubstr("<td>0 <small>/ 5</small></td>"));
  RunHistory bad;
  bad.steps.push_back({.step = 1, .loss = HUGE_VAL});
  EXPECT_TRUE(data_of(report_html({"bad", "", {{.history = &bad}}}))[0]["loss"][0].is_null());
}

TEST(report, the_table_sums_up) {
  RunHistory h = history(200, 100);
  h.evaluations[0].loss = 2.25, h.evaluations[1].loss = 2.5, h.evaluations[1].bits_per_byte = 1.125;
  for (StepRecord& r : h.steps) r.loss = r.step <= 100 ? 9 : 4;
  const std::string page =
      report_html({"t", "", {{.name = "a", .history = &h, .seconds = 61, .facts = {{"parameters", "12 M"}}}}});
  for (const char* cell : {"<td>a</td>", "<td>200</td>", "<td>3,276,800</td>", "<td>4.0000</td>", "<td>2.5000</td>",
                           "<td>2.2500 <small>at 100</small></td>", "<td>1.1250</td>", "<td>5,000</td>",
                           "<td>30 %</td>", "<td>1 min 1 s</td>", "<th>parameters</th>", "<td>12 M</td>"})
    EXPECT_THAT(page, HasSubstr(cell));
  RunHistory bare;
  bare.steps.push_back({.step = 1, .loss = 5});
  EXPECT_THAT(report_html({"t", "", {{.history = &bare}}}), Not(HasSubstr("<th>held-out loss</th>")));
}

TEST(report, texts_stay_text) {
  const RunHistory h = history(3, 2);
  const std::string evil = "</script><script>alert(1)</script>{{data}}{{title}}\"\\\n";
  const std::string page = report_html({evil, evil, {{.name = evil, .history = &h, .facts = {{evil, evil}}}}});
  const auto times = [&](std::string_view text) {
    int n = 0;
    for (size_t at = 0; (at = page.find(text, at)) != page.npos; ++at) ++n;
    return n;
  };
  EXPECT_EQ(times("<script"), 2);  // the page's own
  EXPECT_EQ(times("</script"), 2);
  EXPECT_EQ(data_of(page)[0]["name"], evil);
  EXPECT_EQ(times("{{"), 0);
}

TEST(report, loads_nothing) {
  const RunHistory h = history(3, 2);
  const std::string page = report_html({"t", "", {{.history = &h}}});
  for (const char* way : {"src=", "href=", "@import", "fetch(", "XMLHttpRequest", "url(http", "import("})
    EXPECT_THAT(page, Not(HasSubstr(way)));
}

TEST(report, is_replaced_atomically) {
  const formats::ScratchFolder folder;
  const RunHistory h = history(3, 2);
  for (const char* title : {"one", "two"}) {
    write_report(folder / "report.html", {title, "", {{.history = &h}}});
    EXPECT_EQ(formats::contents(folder / "report.html"), report_html({title, "", {{.history = &h}}}));
  }
  EXPECT_EQ(folder.n_files(), 1u);
}

}  // namespace
}  // namespace linnet::train
