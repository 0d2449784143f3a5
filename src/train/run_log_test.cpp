// The log of a run: read back, cut where a run goes on, and whole lines whatever happens.
#include "train/run_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/errors.h"
#include "formats/file_test_support.h"

namespace linnet::train {
namespace {

using formats::contents;
using formats::error_of;
using formats::ScratchFolder;
using testing::HasSubstr;

StepRecord record(int64_t step) {
  return {.step = step,
          .tokens = step * 100,
          .loss = 1.0 / static_cast<double>(step),
          .lr = 2e-3,
          .grad_norm = 0.7,
          .tokens_per_s = 5120,
          .gemm_share = 0.31};
}

std::vector<int64_t> steps_of(const RunHistory& history) {
  std::vector<int64_t> steps;
  for (const StepRecord& r : history.steps) steps.push_back(r.step);
  return steps;
}

// Steps 1..4 with an evaluation after 2 and 4.
void write_four(const std::filesystem::path& file) {
  RunLog log(file, 0);
  for (int64_t step = 1; step <= 4; ++step) {
    log.append(record(step));
    if (step % 2 == 0) log.append(EvaluationRecord{step, step * 100, 2.5, 1.25});
  }
  log.sync();
}

TEST(run_log, is_read_back_bit_for_bit) {
  const ScratchFolder folder;
  write_four(folder / "log.jsonl");
  const RunHistory h = read_run_log(folder / "log.jsonl");
  ASSERT_EQ(steps_of(h), (std::vector<int64_t>{1, 2, 3, 4}));
  EXPECT_EQ(h.steps[2].tokens, 300);
  EXPECT_EQ(h.steps[2].loss, 1.0 / 3);
  EXPECT_EQ(h.steps[2].lr, 2e-3);
  EXPECT_EQ(h.steps[2].grad_norm, 0.7);
  EXPECT_EQ(h.steps[2].tokens_per_s, 5120);
  EXPECT_EQ(h.steps[2].gemm_share, 0.31);
  ASSERT_EQ(h.evaluations.size(), 2u);
  EXPECT_EQ(h.evaluations[1].step, 4);
  EXPECT_EQ(h.evaluations[1].loss, 2.5);
  EXPECT_EQ(h.evaluations[1].bits_per_byte, 1.25);
  EXPECT_TRUE(read_run_log(folder / "none").steps.empty());
}

TEST(run_log, what_is_not_finite_is_null) {
  const ScratchFolder folder;
  StepRecord r = record(1);
  r.loss = HUGE_VAL, r.gemm_share = kUnknown;
  RunLog(folder / "l", 0).append(r);
  EXPECT_THAT(contents(folder / "l"), HasSubstr("\"loss\":null"));
  EXPECT_TRUE(std::isnan(read_run_log(folder / "l").steps[0].loss));
}

TEST(run_log, goes_on_from_a_step) {
  const ScratchFolder folder;
  for (int64_t from : {0, 1, 2, 3, 4, 9}) {
    write_four(folder / "l");
    {
      RunLog log(folder / "l", from);
      EXPECT_EQ(static_cast<int64_t>(log.history().steps.size()), std::min<int64_t>(from, 4));
      EXPECT_EQ(log.history().evaluations.size(), static_cast<size_t>(std::min<int64_t>(from, 4) / 2));
      log.append(record(from + 1));
      EXPECT_EQ(log.history().steps.back().step, from + 1);
    }
    const RunHistory h = read_run_log(folder / "l");
    EXPECT_EQ(static_cast<int64_t>(h.steps.size()), std::min<int64_t>(from, 4) + 1);
    EXPECT_EQ(h.steps.back().step, from + 1);
  }
}

TEST(run_log, half_a_last_line_does_not_count) {
  const ScratchFolder folder;
  write_four(folder / "l");
  const std::string whole = contents(folder / "l");
  const size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  for (size_t size : {last, last + 1, whole.size() - 2, whole.size() - 1}) {
    folder.write("l", whole.substr(0, size));
    EXPECT_EQ(read_run_log(folder / "l").evaluations.size(), 1u);
    RunLog(folder / "l", 4).append(record(5));
    EXPECT_EQ(steps_of(read_run_log(folder / "l")), (std::vector<int64_t>{1, 2, 3, 4, 5}));
  }
}

TEST(run_log, what_follows_the_step_may_be_anything) {
  const ScratchFolder folder;
  write_four(folder / "l");
  const std::string whole = contents(folder / "l");
  folder.write("l", whole + std::string("\0\xff garbage\n{}\n", 13));
  EXPECT_THAT(error_of<FormatError>([&] { read_run_log(folder / "l"); }), HasSubstr("l: line 7: "));
  { RunLog log(folder / "l", 3); }
  EXPECT_EQ(steps_of(read_run_log(folder / "l")), (std::vector<int64_t>{1, 2, 3}));
}

TEST(run_log, other_lines_are_refused_by_number) {
  const ScratchFolder folder;
  const auto refusal = [&](const std::string& line) {
    folder.write("l", "{\"step\": 1, \"tokens\": 1}\n" + line + "\n");
    return error_of<FormatError>([&] { read_run_log(folder / "l"); });
  };
  EXPECT_THAT(refusal("{\"tokens\": 1}"), HasSubstr("l: line 2: step: expected integer"));
  EXPECT_THAT(refusal("{\"step\": 2, \"tokens\": 1, \"lss\": 1}"), HasSubstr("l: line 2: lss: unknown key"));
  EXPECT_THAT(refusal(""), HasSubstr("l: line 2: "));
}

TEST(run_log, a_full_disk_leaves_whole_lines) {
  const ScratchFolder folder;
  RunLog log(folder / "l", 0);
  log.append(record(1));
  const auto one = static_cast<rlim_t>(std::filesystem::file_size(folder / "l"));
  {
    const formats::FullDisk full(one + 10);
    EXPECT_THROW(log.append(record(2)), IoError);
  }
  EXPECT_EQ(std::filesystem::file_size(folder / "l"), one);
  EXPECT_EQ(log.history().steps.size(), 1u);
  log.append(record(3));  // room again
  EXPECT_EQ(steps_of(read_run_log(folder / "l")), (std::vector<int64_t>{1, 3}));
}

}  // namespace
}  // namespace linnet::train
