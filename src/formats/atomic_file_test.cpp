// Atomic files: complete or absent, whatever fails.
#include "formats/atomic_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "core/errors.h"
#include "formats/checkpoint_writer.h"
#include "formats/file_test_support.h"
#include "formats/state_file.h"

namespace linnet::formats {
namespace {

using testing::EndsWith;
using testing::HasSubstr;

class atomic_file : public testing::TestWithParam<Temporary> {};

TEST_P(atomic_file, appears_on_commit) {
  const ScratchFolder folder;
  const auto path = folder.write("a", "old");
  AtomicFile file(path, GetParam());
  file.append("0123");
  file.append("45");
  file.write_at(1, bytes_of_text("x"));
  EXPECT_EQ(contents(path), "old");
  EXPECT_EQ(folder.n_files(), GetParam() == Temporary::named ? 2u : 1u);
  file.commit();
  EXPECT_EQ(contents(path), "0x2345");
  EXPECT_EQ(folder.n_files(), 1u);
}

TEST_P(atomic_file, leaves_nothing_without_commit) {
  const ScratchFolder folder;
  const auto path = folder.write("a", "old");
  { AtomicFile(path, GetParam()).append("new"); }
  EXPECT_EQ(contents(path), "old");
  EXPECT_EQ(folder.n_files(), 1u);
}

TEST_P(atomic_file, reserves_and_is_written_by_many_threads) {
  const ScratchFolder folder;
  AtomicFile file(folder / "a", GetParam());
  file.reserve(4000);
  std::vector<std::thread> threads;
  for (char c = '0'; c < '4'; ++c)
    threads.emplace_back([&file, c] {
      for (uint64_t i = 0; i < 1000; ++i)
        file.write_at(static_cast<uint64_t>(c - '0') * 1000 + i, std::as_bytes(std::span(&c, 1)));
    });
  for (std::thread& thread : threads) thread.join();
  file.commit();
  std::string want;
  for (char c = '0'; c < '4'; ++c) want += std::string(1000, c);
  EXPECT_EQ(contents(folder / "a"), want);
}

TEST_P(atomic_file, a_full_disk_leaves_nothing) {
  const ScratchFolder folder;
  const auto path = folder / "a";
  const FullDisk full(8192);
  {
    AtomicFile file(path, GetParam());
    file.append(std::string(8000, 'x'));
    EXPECT_EQ(error_of<IoError>([&] { file.append(std::string(8000, 'x')); }),
              path.string() + ": cannot write 7.62 KiB at byte 8192: File too large");
  }
  {
    AtomicFile file(path, GetParam());
    EXPECT_EQ(error_of<IoError>([&] { file.reserve(10000); }),
              path.string() + ": cannot reserve 9.77 KiB: File too large");
  }
  EXPECT_EQ(folder.n_files(), 0u);
}

TEST_P(atomic_file, does_not_replace_what_is_not_a_file) {
  const ScratchFolder folder;
  EXPECT_THAT(error_of<IoError>([&] { AtomicFile(folder.path(), GetParam()); }),
              HasSubstr(": expected a new name or a regular file, got a folder"));
  EXPECT_THROW(AtomicFile("/dev/null", GetParam()), IoError);
  const std::string lost = (folder / "none/a").string();
  EXPECT_EQ(error_of<IoError>([&] { AtomicFile(lost, GetParam()); }),
            lost + ": cannot create a file in " + (folder / "none").string() + ": No such file or directory");
}

TEST_P(atomic_file, follows_a_symbolic_link) {
  const ScratchFolder folder;
  std::filesystem::create_directory(folder / "sub");
  std::filesystem::create_symlink("sub/real", folder / "link");
  for (const char* text : {"new", "newer"}) {  // the first creates sub/real, the second replaces it
    AtomicFile file(folder / "link", GetParam());
    file.append(text);
    file.commit();
    EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
    EXPECT_EQ(contents(folder / "sub/real"), text);
  }
}

TEST_P(atomic_file, refuses_a_loop_of_links) {
  const ScratchFolder folder;
  std::filesystem::create_symlink("loop", folder / "loop");
  EXPECT_EQ(error_of<IoError>([&] { AtomicFile(folder / "loop", GetParam()); }),
            (folder / "loop").string() + ": cannot follow the symbolic link: Too many levels of symbolic links");
}

TEST_P(atomic_file, fails_at_commit_when_the_target_became_a_folder) {
  const ScratchFolder folder;
  {
    AtomicFile file(folder / "a", GetParam());
    std::filesystem::create_directory(folder / "a");
    EXPECT_THAT(error_of<IoError>([&] { file.commit(); }), EndsWith("/a: cannot rename: Is a directory"));
  }
  EXPECT_EQ(folder.n_files(), 1u);
}

INSTANTIATE_TEST_SUITE_P(temporaries, atomic_file, testing::Values(Temporary::unnamed, Temporary::named),
                         [](const auto& tested) { return tested.param == Temporary::named ? "named" : "unnamed"; });

TEST(full_disk, no_state_file) {
  const ScratchFolder folder;
  const std::vector<float> data(4096);
  const StateSection section{"kda.0", ConstTensor::of(data.data(), {4096})};
  const FullDisk full(8192);
  EXPECT_THAT(error_of<IoError>([&] {
                write_state_file(folder / "a", {"m", {}}, {&section, 1});
              }),
              HasSubstr("/a: cannot reserve 16."));
  EXPECT_EQ(folder.n_files(), 0u);
}

TEST(full_disk, no_checkpoint) {
  const ScratchFolder folder;
  const std::vector<TensorSpec> specs = {{"a", DType::u8, {4000}}, {"b", DType::u8, {9000}}};
  const FullDisk full(8192);
  EXPECT_THAT(error_of<IoError>([&] { CheckpointWriter(folder / "model", specs, 8000); }),
              HasSubstr("/model-00002-of-00002.safetensors: cannot reserve "));
  EXPECT_EQ(folder.n_files(), 0u);
}

}  // namespace
}  // namespace linnet::formats
