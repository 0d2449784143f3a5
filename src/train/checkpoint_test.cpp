// Training checkpoints: complete or absent, whenever the process dies and however full the disk is.
#include "train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <vector>

#include "core/rng.h"
#include "core/text.h"
#include "formats/file_test_support.h"

namespace linnet::train {
namespace {

using formats::contents;
using formats::error_of;
using formats::FullDisk;
using formats::ScratchFolder;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

// Contents whose every number follows from the step.
struct Toy {
  std::vector<float> weight = std::vector<float>(3000), moment = std::vector<float>(20000);

  CheckpointContents at(int64_t step) {
    for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(step) + 1e-4f * static_cast<float>(i);
    for (size_t i = 0; i < moment.size(); ++i) moment[i] = static_cast<float>(step) - static_cast<float>(i);
    const auto n = static_cast<int64_t>(weight.size());
    return {.step = step,
            .texts = {{"config.json", cat("{\"step\": ", step, "}")}, {"trainer.json", cat("state ", step)}},
            .model = {{"w", ConstTensor::of(weight.data(), {n / 10, 10}), DType::bf16},
                      {"b", ConstTensor::of(weight.data(), {n})}},
            .optimizer = {{"w/master", ConstTensor::of(weight.data(), {n / 10, 10})},
                          {"w/momentum", ConstTensor::of(moment.data(), {static_cast<int64_t>(moment.size())})}}};
  }

  // Whether what is on disk is what at(step) says.
  void expect_whole(const SavedCheckpoint& saved) {
    SCOPED_TRACE(saved.path.string());
    at(saved.step);
    const LoadedCheckpoint loaded = load_checkpoint(saved);
    EXPECT_EQ(loaded.trainer_json, cat("state ", saved.step));
    EXPECT_EQ(contents(saved.path / "config.json"), cat("{\"step\": ", saved.step, "}"));
    std::vector<float> read(weight.size());
    read_tensor(loaded.optimizer, "w/master", Tensor::of(read.data(), {std::ssize(read) / 10, 10}));
    EXPECT_EQ(read, weight);
    read_tensor(loaded.model, "b", Tensor::of(read.data(), {std::ssize(read)}));
    EXPECT_EQ(read, weight);
    std::vector<bf16> rounded(weight.size());
    read_tensor(loaded.model, "w", Tensor::of(rounded.data(), {std::ssize(read) / 10, 10}));
    for (size_t i = 0; i < rounded.size(); ++i) ASSERT_EQ(rounded[i].bits, to_bf16(weight[i]).bits);
    read.resize(moment.size());
    read_tensor(loaded.optimizer, "w/momentum", Tensor::of(read.data(), {std::ssize(read)}));
    EXPECT_EQ(read, moment);
  }
};

std::vector<int64_t> steps_in(const std::filesystem::path& folder) {
  std::vector<int64_t> steps;
  for (const SavedCheckpoint& saved : list_checkpoints(folder)) steps.push_back(saved.step);
  return steps;
}

size_t n_files(const std::filesystem::path& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

TEST(train_checkpoint, is_read_back_as_saved) {
  const ScratchFolder scratch;
  Toy run;
  const RunFolder folder(scratch / "a/run");
  EXPECT_EQ(save_checkpoint(folder, run.at(7), 2), folder.path() / "step-00000007");
  run.expect_whole({folder.path() / "step-00000007", 7});
  EXPECT_EQ(n_files(folder.path()), 2u);  // and the lock
}

TEST(train_checkpoint, large_tensors_are_rounded_in_blocks) {
  const ScratchFolder scratch;
  const RunFolder folder(scratch.path());
  std::vector<float> values((1 << 18) + 3);
  const Rng rng(5);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(rng.normal(i));
  const ConstTensor view = ConstTensor::of(values.data(), {std::ssize(values)});
  const CheckpointContents c{.texts = {{"trainer.json", ""}},
                             .model = {{"b", view, DType::bf16}, {"h", view, DType::f16}}};
  const auto loaded = load_checkpoint({save_checkpoint(folder, c, 1), 0});
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(loaded.model.find("b")->as<bf16>()[i].bits, to_bf16(values[i]).bits) << i;
    ASSERT_EQ(loaded.model.find("h")->as<f16>()[i].bits, to_f16(values[i]).bits) << i;
  }
}

TEST(train_checkpoint, the_tokenizer_goes_along) {
  const ScratchFolder scratch;
  Toy run;
  std::filesystem::create_directory(scratch / "tokenizer");
  const RunFolder folder(scratch / "run");
  CheckpointContents c = run.at(1);
  c.tokenizer_folder = scratch / "tokenizer";
  EXPECT_THAT(error_of<CheckpointNotWritten>([&] { save_checkpoint(folder, c, 1); }), HasSubstr("tiktoken.model"));
  scratch.write("tokenizer/tiktoken.model", "YQ== 0\n");
  scratch.write("tokenizer/chat_template.jinja", "{{ x }}");
  scratch.write("tokenizer/model.safetensors", "not this");
  const auto saved = save_checkpoint(folder, c, 1);
  EXPECT_EQ(contents(saved / "tiktoken.model"), "YQ== 0\n");
  EXPECT_EQ(contents(saved / "chat_template.jinja"), "{{ x }}");
  run.expect_whole({saved, 1});
}

TEST(train_checkpoint, the_last_ones_are_kept) {
  const ScratchFolder scratch;
  Toy run;
  const RunFolder folder(scratch.path());
  for (int64_t step : {5, 10, 15, 100'000'000}) save_checkpoint(folder, run.at(step), 3);
  EXPECT_THAT(steps_in(scratch.path()), ElementsAre(10, 15, 100'000'000));
  EXPECT_EQ(latest_checkpoint(scratch.path())->path.filename(), "step-100000000");
  save_checkpoint(folder, run.at(12), 1);  // never the one just written
  EXPECT_THAT(steps_in(scratch.path()), ElementsAre(12));
  run.expect_whole(*latest_checkpoint(scratch.path()));
}

TEST(train_checkpoint, the_same_step_is_replaced) {
  const ScratchFolder scratch;
  Toy run;
  const RunFolder folder(scratch.path());
  for (const char* text : {"first", "second"}) {
    CheckpointContents c = run.at(3);
    c.texts["trainer.json"] = text;
    save_checkpoint(folder, c, 1);
    EXPECT_EQ(load_checkpoint(*latest_checkpoint(scratch.path())).trainer_json, text);
  }
  EXPECT_EQ(scratch.n_files(), 2u);
}

TEST(train_checkpoint, is_found_by_its_own_name_or_its_run) {
  const ScratchFolder scratch;
  Toy run;
  {
    const RunFolder folder(scratch.path());
    for (int64_t step : {1, 2}) save_checkpoint(folder, run.at(step), 5);
  }
  EXPECT_EQ(find_checkpoint(scratch.path()).step, 2);
  EXPECT_EQ(find_checkpoint(scratch / "step-00000001").step, 1);
  EXPECT_EQ(find_checkpoint(scratch / "step-00000001/").step, 1);
  for (const char* name : {"step-1", "step-0000000x", "step-000000003", "step-00000004"}) {
    std::filesystem::create_directory(scratch / name);  // not names of checkpoints; the last one is none
    if (std::string_view(name) != "step-00000004") scratch.write(std::string(name) + "/trainer.json", "");
  }
  EXPECT_EQ(find_checkpoint(scratch.path()).step, 2);
  EXPECT_EQ(error_of<FormatError>([&] { find_checkpoint(scratch / "none"); }),
            (scratch / "none").string() + ": expected a training checkpoint or a folder of some, got neither");
}

TEST(train_checkpoint, contents_that_cannot_be_written_leave_nothing) {
  const ScratchFolder scratch;
  Toy run;
  const RunFolder folder(scratch.path());
  const auto refusal = [&](auto change) {
    CheckpointContents c = run.at(1);
    change(c);
    const std::string text = error_of<InvalidArgument>([&] { save_checkpoint(folder, c, 1); });
    EXPECT_EQ(scratch.n_files(), 1u);
    return text;
  };
  EXPECT_THAT(refusal([](auto& c) { c.texts.erase("trainer.json"); }), HasSubstr("expected trainer.json among them"));
  EXPECT_THAT(refusal([](auto& c) { c.model.push_back(c.model[0]); }), HasSubstr("w"));
  EXPECT_THAT(refusal([](auto& c) { c.model[0].data = c.model[0].data.columns(0, 5); }),
              HasSubstr("step-00000001: w: expected a dense tensor in f32 or its own type, got [300, 5] f32"));
  EXPECT_THAT(refusal([](auto& c) { c.optimizer[0].as = DType::i32; }), HasSubstr("w/master: expected a dense tensor"));
  EXPECT_THAT(refusal([](auto& c) { c.optimizer[0].data = {}; }), HasSubstr("got absent"));
}

TEST(train_checkpoint, a_tensor_of_another_kind_is_named) {
  const ScratchFolder scratch;
  Toy run;
  const RunFolder folder(scratch.path());
  const auto loaded = load_checkpoint({save_checkpoint(folder, run.at(1), 1), 1});
  std::vector<float> to(3000);
  const auto refusal = [&](std::string_view name, const Tensor& view) {
    return error_of<FormatError>([&] { read_tensor(loaded.model, name, view); });
  };
  EXPECT_THAT(refusal("none", Tensor::of(to.data(), {3000})), HasSubstr(": none: expected [3000] f32, got nothing"));
  EXPECT_THAT(refusal("b", Tensor::of(to.data(), {30, 100})), HasSubstr(": b: expected [30, 100] f32, got [3000] f32"));
  EXPECT_THAT(refusal("w", Tensor::of(to.data(), {300, 10})),
              HasSubstr(": w: expected [300, 10] f32, got [300, 10] bf16"));
}

TEST(train_checkpoint, a_full_disk_leaves_the_old_one) {
  const ScratchFolder scratch;
  Toy run;
  const RunFolder folder(scratch.path());
  const auto refusal = [&](rlim_t max_bytes, int64_t step) {
    const FullDisk full(max_bytes);
    return error_of<CheckpointNotWritten>([&] { save_checkpoint(folder, run.at(step), 1); });
  };
  EXPECT_THAT(refusal(5000, 1), HasSubstr("step-00000001: not written, and there is no earlier one: "));
  EXPECT_EQ(scratch.n_files(), 1u);
  save_checkpoint(folder, run.at(2), 1);
  for (rlim_t max_bytes : {3u, 5000u, 60000u}) {  // config.json, the model, the optimizer
    EXPECT_THAT(refusal(max_bytes, 3), HasSubstr("/step-00000003: not written, the latest is still step-00000002: "));
    EXPECT_THAT(steps_in(scratch.path()), ElementsAre(2));
    EXPECT_EQ(scratch.n_files(), 2u);
    run.expect_whole(*latest_checkpoint(scratch.path()));
  }
  EXPECT_THAT(refusal(60000, 2), HasSubstr("not written, the latest is still step-00000002: "));  // replacing it
  run.expect_whole(*latest_checkpoint(scratch.path()));
  save_checkpoint(folder, run.at(4), 1);  // room again
  EXPECT_THAT(steps_in(scratch.path()), ElementsAre(4));
}

TEST(train_checkpoint, one_run_has_a_folder) {
  const ScratchFolder scratch;
  {
    const RunFolder first(scratch.path());
    EXPECT_EQ(error_of<InvalidArgument>([&] { RunFolder second(scratch.path()); }),
              scratch.path().string() + ": expected a folder that no run is using, got one that another uses");
  }
  EXPECT_NO_THROW(RunFolder(scratch.path()));
  scratch.write("file", "");
  EXPECT_THROW(RunFolder(scratch / "file"), IoError);
}

TEST(train_checkpoint, the_next_owner_puts_right_what_was_left) {
  const ScratchFolder scratch;
  Toy run;
  {
    const RunFolder folder(scratch.path());
    for (int64_t step : {1, 2}) save_checkpoint(folder, run.at(step), 5);
  }
  // Killed between the two renames of a replacement; after them; while removing; while writing.
  std::filesystem::rename(scratch / "step-00000002", scratch / ".linnet-replaced-step-00000002");
  std::filesystem::create_directories(scratch / ".linnet-replaced-step-00000001/x");
  std::filesystem::create_directories(scratch / ".linnet-removed-step-00000003");
  std::filesystem::create_directories(scratch / ".linnet-saving/y");
  scratch.write("mine", "stays");
  const RunFolder folder(scratch.path());
  EXPECT_THAT(steps_in(scratch.path()), ElementsAre(1, 2));
  for (const SavedCheckpoint& saved : list_checkpoints(scratch.path())) run.expect_whole(saved);
  EXPECT_EQ(scratch.n_files(), 4u);
}

// A child saves step after step, each second one twice, and says which are done; it is killed at some moment.
void save_until_killed(const std::filesystem::path& path, int pipe_to_parent) {
  Toy run;
  const RunFolder folder(path);
  const auto latest = latest_checkpoint(path);
  for (int64_t step = latest ? latest->step + 1 : 1;; ++step)
    for (int time = 0; time <= step % 2; ++time) {
      save_checkpoint(folder, run.at(step), 2);
      if (write(pipe_to_parent, &step, sizeof step) != sizeof step) _exit(1);
    }
}

double microseconds_of_a_save() {
  const ScratchFolder scratch;
  Toy run;
  const RunFolder folder(scratch.path());
  save_checkpoint(folder, run.at(1), 1);
  const auto begin = std::chrono::steady_clock::now();
  save_checkpoint(folder, run.at(2), 1);
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
}

TEST(train_checkpoint, a_kill_at_any_moment_loses_no_checkpoint) {
  const ScratchFolder scratch;
  Toy run;
  Rng rng(20261122);
  int64_t saved = 0;
  const double save_us = microseconds_of_a_save();
  for (int kill_number = 0; kill_number < 40; ++kill_number) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      try {
        save_until_killed(scratch.path(), ends[1]);
      } catch (...) { _exit(3); }
    }
    close(ends[1]);
    usleep(static_cast<useconds_t>(save_us * 4 * rng.uniform()));
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << WEXITSTATUS(status);
    for (int64_t step; read(ends[0], &step, sizeof step) == sizeof step;) saved = step;
    close(ends[0]);

    const RunFolder folder(scratch.path());
    const std::vector<SavedCheckpoint> found = list_checkpoints(scratch.path());
    if (saved == 0) continue;
    ASSERT_FALSE(found.empty());
    EXPECT_GE(found.back().step, saved);
    EXPECT_LE(found.back().step, saved + 1);
    for (const SavedCheckpoint& checkpoint : found) run.expect_whole(checkpoint);
    EXPECT_EQ(scratch.n_files(), 1 + found.size());
    saved = found.back().step;
  }
  EXPECT_GT(saved, 5);
}

}  // namespace
}  // namespace linnet::train
