// Writers of safetensors files and checkpoints: layout, completeness, refusals.
#include "formats/safetensors_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "core/errors.h"
#include "core/text.h"
#include "formats/checkpoint.h"
#include "formats/checkpoint_writer.h"
#include "formats/file_test_support.h"
#include "formats/safetensors_header.h"

namespace linnet::formats {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;

TEST(safetensors_writer, the_bytes_of_a_file) {
  const ScratchFolder folder;
  SafetensorsWriter writer(folder / "a", {{"b", DType::u8, {3}}, {"a", DType::f16, {1, 2}}});
  writer.append("b", bytes_of_text("xyz"));
  writer.append("a", bytes_of_text("0123"));
  writer.commit();
  std::string header = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[1,2],"data_offsets":[0,4]},)"
                       R"("b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]}})";
  ASSERT_EQ(header.size(), 139u);
  header.append(184 - 139, ' ');  // 8 + 184 = 3 * 64
  EXPECT_EQ(contents(folder / "a"), std::string("\xb8\0\0\0\0\0\0\0", 8) + header + "0123xyz");
}

TEST(safetensors_writer, threads_write_parts_of_a_tensor) {
  const ScratchFolder folder;
  SafetensorsWriter writer(folder / "a", {{"t", DType::u8, {4000}}});
  std::vector<std::thread> threads;
  for (char c = '0'; c < '4'; ++c)
    threads.emplace_back([&writer, c] {
      for (uint64_t i = 0; i < 1000; ++i)
        writer.write_at("t", static_cast<uint64_t>(c - '0') * 1000 + i, std::as_bytes(std::span(&c, 1)));
    });
  for (std::thread& thread : threads) thread.join();
  writer.commit();
  const Checkpoint c = Checkpoint::open(folder / "a");
  const ConstTensor t = c.find("t").value();
  for (int64_t i = 0; i < 4000; ++i) ASSERT_EQ(t.as<uint8_t>()[i], '0' + i / 1000);
}

TEST(safetensors_writer, refuses_what_the_format_cannot_hold) {
  const ScratchFolder folder;
  const auto refusal = [&](const std::vector<TensorSpec>& specs, const Metadata& metadata = {}) {
    const std::string message = error_of<InvalidArgument>([&] { SafetensorsWriter(folder / "a", specs, metadata); });
    return message.substr(std::min(message.size(), (folder / "a").string().size() + 2));
  };
  EXPECT_EQ(refusal({{"t", DType::u8, {1}}, {"t", DType::u8, {1}}}), "t: expected one such tensor, got two");
  EXPECT_EQ(refusal({{"", DType::u8, {1}}}), ": expected a name");
  EXPECT_EQ(refusal({{"__metadata__", DType::u8, {1}}}),
            "__metadata__: expected another name: the format reserves this one");
  EXPECT_EQ(refusal({{"t", DType::u8, {1, 1, 1, 1, 1}}}), "t: expected at most 4 extents, got [1, 1, 1, 1, 1]");
  EXPECT_EQ(refusal({{"t", DType::u8, {-1}}}),
            "t: expected extents >= 0 whose product fits in 63 bits of bytes, got [-1]");
  EXPECT_THAT(refusal({{"t", DType::i64, {int64_t{1} << 60}}}), HasSubstr("fits in 63 bits"));
  EXPECT_EQ(refusal({{"\xff", DType::u8, {1}}}), "expected names and metadata in UTF-8");
  EXPECT_EQ(refusal({}, {{"k", "\xff"}}), "expected names and metadata in UTF-8");
  EXPECT_EQ(folder.n_files(), 0u);
}

TEST(safetensors_writer, more_than_the_disk_holds) {
  const ScratchFolder folder;
  const TensorSpec half{"a", DType::u8, {INT64_MAX / 2}}, other_half{"b", DType::u8, {INT64_MAX / 2}};
  EXPECT_THAT(error_of<IoError>([&] { SafetensorsWriter(folder / "a", {half}); }),
              HasSubstr("/a: cannot reserve 4.00 EiB: "));
  EXPECT_THAT(error_of<InvalidArgument>([&] {
                SafetensorsWriter(folder / "a", {half, other_half});
              }),
              EndsWith("/a: b: expected at most 2^62 bytes in all, got 4611686018427387903 after 4611686018427387903"));
  EXPECT_THROW(CheckpointWriter(folder / "model", {half, other_half}, UINT64_MAX), InvalidArgument);
  EXPECT_EQ(folder.n_files(), 0u);
}

TEST(safetensors_writer, every_byte_must_come) {
  const ScratchFolder folder;
  const std::string path = (folder / "a").string();
  {
    SafetensorsWriter writer(path, {{"t", DType::u8, {4}}, {"none", DType::u8, {0}}});
    writer.append("t", bytes_of_text("012"));
    EXPECT_EQ(error_of<InvalidArgument>([&] { writer.commit(); }), path + ": t: expected 4 bytes, got 3");
    EXPECT_EQ(error_of<InvalidArgument>([&] { writer.append("t", bytes_of_text("34")); }),
              path + ": t: expected bytes inside [0, 4], got [3, 5]");
    EXPECT_EQ(error_of<InvalidArgument>([&] { writer.write_at("t", 5, bytes_of_text("")); }),
              path + ": t: expected bytes inside [0, 4], got [5, 5]");
    EXPECT_EQ(error_of<InvalidArgument>([&] { writer.append("u", bytes_of_text("3")); }),
              path + ": u: expected a declared tensor");
  }
  EXPECT_EQ(folder.n_files(), 0u);
}

TEST(checkpoint_writer, names_of_shards_and_index) {
  const ScratchFolder folder;
  const std::vector<TensorSpec> specs = {
      {"c", DType::u8, {3}}, {"a", DType::u8, {1}}, {"big", DType::u8, {9}}, {"b", DType::u8, {4}}};
  CheckpointWriter writer(folder / "new/model", specs, 4);
  for (const TensorSpec& spec : specs)
    writer.write_at(spec.name, 0, bytes_of_text(std::string(static_cast<size_t>(spec.shape[0]), 'x')));
  EXPECT_THROW(writer.append("d", {}), InvalidArgument);
  writer.commit();
  EXPECT_EQ(contents(folder / "new/model/model.safetensors.index.json"), R"({
  "metadata": {
    "total_size": 17
  },
  "weight_map": {
    "a": "model-00001-of-00003.safetensors",
    "b": "model-00003-of-00003.safetensors",
    "big": "model-00002-of-00003.safetensors",
    "c": "model-00001-of-00003.safetensors"
  }
}
)");
  const Checkpoint c = Checkpoint::open(folder / "new/model");
  EXPECT_EQ(c.total_bytes(), 17);
  EXPECT_EQ(c.place("big"), "model-00002-of-00003.safetensors: big");
  EXPECT_THAT(Checkpoint::open(folder / "new/model/model-00001-of-00003.safetensors").names(), ElementsAre("a", "c"));
}

TEST(checkpoint_writer, leaves_other_checkpoints_alone) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"}) {
    const ScratchFolder folder;
    folder.write(name, "");
    EXPECT_EQ(error_of<InvalidArgument>([&] {
                CheckpointWriter(folder.path(), {{"t", DType::u8, {1}}}, 9);
              }),
              cat(folder.path().string(), ": expected a folder without a checkpoint, got one with ", name));
  }
  const ScratchFolder folder;
  folder.write("file", "");
  EXPECT_THAT(error_of<IoError>([&] { CheckpointWriter(folder / "file", {}, 9); }), HasSubstr("/file: cannot create "));
}

TEST(checkpoint_writer, leaves_nothing_when_it_fails) {
  const ScratchFolder folder;
  const std::vector<TensorSpec> specs = {{"a", DType::u8, {1}}, {"b", DType::u8, {1}}};
  { CheckpointWriter writer(folder / "given-up", specs, 1); }
  {
    CheckpointWriter writer(folder / "incomplete", specs, 1);
    writer.append("a", bytes_of_text("x"));  // the first shard can take its place, the second cannot
    EXPECT_THROW(writer.commit(), InvalidArgument);
    EXPECT_TRUE(std::filesystem::exists(folder / "incomplete/model-00001-of-00002.safetensors"));
  }
  EXPECT_THROW(CheckpointWriter(folder / "twice", {{"a", DType::u8, {1}}, {"a", DType::u8, {1}}}, 1), InvalidArgument);
  EXPECT_EQ(folder.n_files(), 0u);
  CheckpointWriter(folder.path(), specs, 1);
  EXPECT_TRUE(std::filesystem::exists(folder.path()));  // it was there before
}

}  // namespace
}  // namespace linnet::formats
