// Checkpoints, read and written: the real file of tests/data, shards against their index, round trips.
#include "formats/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/errors.h"
#include "formats/checkpoint_writer.h"
#include "formats/file_test_support.h"

namespace linnet::formats {
namespace {

using testing::HasSubstr;

TEST(checkpoint, reads_a_real_file) {
  const std::string path = LINNET_SOURCE_DIR "/tests/data/tiny-fp32/model.safetensors";
  for (const std::string& where : {path, std::string(LINNET_SOURCE_DIR "/tests/data/tiny-fp32")}) {
    const Checkpoint c = Checkpoint::open(where);
    EXPECT_EQ(c.metadata().at("format"), "pt");
    EXPECT_TRUE(std::is_sorted(c.names().begin(), c.names().end()));
    const ConstTensor norm = c.find("model.norm.weight").value();
    EXPECT_EQ(text_of(norm), "[64] f32");
    EXPECT_FALSE(c.find("model.norm"));
    EXPECT_EQ(c.place("model.norm.weight"), "model.safetensors: model.norm.weight");
  }
}

// A tensor of bytes that tell where they are.
std::string pattern(const TensorSpec& spec) {
  std::string bytes(static_cast<size_t>(*bytes_of(spec.dtype, spec.shape)), '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(spec.name.size() * 31 + i * 7);
  return bytes;
}

const std::vector<TensorSpec> kSpecs = {
    {"u8", DType::u8, {3}},
    {"bf16", DType::bf16, {5, 2}},
    {"f32", DType::f32, {2, 3}},
    {"i64", DType::i64, {1}},
    {"none", DType::f32, {0, 4}},
    {"scalar", DType::f32, {}},
    {"f16", DType::f16, {1, 1, 3, 1}},
    {"i32 \"quoted\"", DType::i32, {2}},
};

void expect_specs(const Checkpoint& c) {
  EXPECT_EQ(c.names().size(), kSpecs.size());
  for (const TensorSpec& spec : kSpecs) {
    const ConstTensor t = c.find(spec.name).value();
    EXPECT_EQ(t.dtype, spec.dtype);
    EXPECT_EQ(shape_text(t.dims()), spec.shape.empty() ? "[1]" : shape_text(spec.shape));
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(t.data), static_cast<size_t>(t.bytes())), pattern(spec));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data) % static_cast<uintptr_t>(size_of(t.dtype)), 0u);
  }
}

TEST(checkpoint, round_trip_of_any_sharding) {
  for (const auto& [max_bytes, n_files] : {std::pair(uint64_t{1} << 30, 1), {24, 5}, {1, 9}}) {
    const ScratchFolder folder;
    CheckpointWriter writer(folder.path(), kSpecs, max_bytes);
    for (const TensorSpec& spec : kSpecs) {
      const std::string bytes = pattern(spec);
      for (size_t at = 0; at < bytes.size(); at += 5)
        writer.append(spec.name, bytes_of_text(std::string_view(bytes).substr(at, 5)));
    }
    EXPECT_EQ(folder.n_files(), 0u);
    writer.commit();
    EXPECT_EQ(folder.n_files(), static_cast<size_t>(n_files));
    expect_specs(Checkpoint::open(folder.path()));
  }
}

}  // namespace
}  // namespace linnet::formats
