// Checkpoints, read and written: the real file of tests/data, shards against their index, round trips.
#include "formats/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/errors.h"
#include "core/text.h"
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

// One safetensors file with one-byte tensors of these names.
std::string file_of_names(const std::vector<std::string>& names) {
  const ScratchFolder folder;
  std::vector<TensorSpec> specs;
  for (const std::string& name : names) specs.push_back({name, DType::u8, {1}});
  SafetensorsWriter writer(folder / "a", specs);
  for (const std::string& name : names) writer.append(name, bytes_of_text("x"));
  writer.commit();
  return contents(folder / "a");
}

// Two shards, p with x and y, q with z, under this index.
std::string refusal_of_index(std::string_view index) {
  const ScratchFolder folder;
  folder.write("p", file_of_names({"x", "y"}));
  folder.write("q", file_of_names({"z"}));
  folder.write("r", file_of_names({"x", "z"}));
  const auto path = folder.write("model.safetensors.index.json", index);
  const std::string message = error_of<FormatError>([&] { Checkpoint::open(folder.path()); });
  EXPECT_THAT(message, testing::StartsWith(path.string() + ": "));
  return message.substr(std::min(message.size(), path.string().size() + 2));
}

TEST(checkpoint, index_and_shards_agree) {
  const ScratchFolder folder;
  folder.write("p", file_of_names({"x", "y"}));
  folder.write("q", file_of_names({"z"}));
  const auto index =
      folder.write("model.safetensors.index.json", R"({"weight_map":{"z":"q","y":"p","x":"p"},"metadata":{}})");
  for (const auto& where : {folder.path(), index}) {
    const Checkpoint c = Checkpoint::open(where);
    EXPECT_THAT(c.names(), testing::ElementsAre("x", "y", "z"));
    EXPECT_EQ(c.total_bytes(), 3);
    EXPECT_EQ(c.place("y"), "p: y");
    EXPECT_EQ(c.place("lm_head"), "model.safetensors.index.json: lm_head");
  }
}

TEST(checkpoint, index_and_shards_that_disagree) {
  EXPECT_EQ(refusal_of_index(R"({"weight_map":{"x":"p","y":"p","z":"p"}})"),
            "weight_map: z: expected in p, which has no such tensor");
  EXPECT_EQ(refusal_of_index(R"({"weight_map":{"a":"p","x":"p","y":"p","z":"q"}})"),
            "weight_map: a: expected in p, which has no such tensor");
  EXPECT_EQ(refusal_of_index(R"({"weight_map":{"x":"p","y":"q","z":"q"}})"),
            "weight_map: y: expected in q, got it in p");
  EXPECT_EQ(refusal_of_index(R"({"weight_map":{"x":"p","z":"q"}})"),
            "weight_map: y: expected an entry for this tensor of p, got none");
  EXPECT_EQ(refusal_of_index(R"({"weight_map":{"x":"p","y":"p","q":"q"}})"),
            "weight_map: q: expected in q, which has no such tensor");
  EXPECT_EQ(refusal_of_index(R"({"weight_map":{"x":"p","y":"p"," z":"q"}})"),
            "weight_map:  z: expected in q, which has no such tensor");
  EXPECT_EQ(refusal_of_index(R"({"weight_map":{"x":"p","y":"p","z":"r"}})"),
            "weight_map: x: expected it in one shard, got it in p and r");
  EXPECT_EQ(refusal_of_index(R"({"weight_map":{"x":1}})"), "weight_map.x: expected string, got 1");
  EXPECT_EQ(refusal_of_index(R"({"weight_map":{"x":"p","x":"p"}})"),
            "\"x\": expected one such key, got two in one object");
  EXPECT_EQ(refusal_of_index("{}"), "weight_map: expected object, got nothing");
  for (const char* shard : {"../p", "/etc/passwd", "", ".", "..", "a/p"})
    EXPECT_EQ(refusal_of_index(cat(R"({"weight_map":{"x":")", shard, "\"}}")),
              cat("weight_map.x: expected the name of a file in the same folder, got \"", shard, '"'));
}

TEST(checkpoint, what_cannot_be_opened) {
  const ScratchFolder folder;
  const std::string where = folder.path().string();
  const auto format_error = [&] { return error_of<FormatError>([&] { Checkpoint::open(where); }); };
  EXPECT_EQ(format_error(), where + ": expected model.safetensors or model.safetensors.index.json, got neither");
  folder.write("model.safetensors", "");
  EXPECT_EQ(format_error(),
            where + "/model.safetensors: byte 0: expected a header length of 8 bytes, got a file of 0 bytes");
  folder.write("model.safetensors.index.json", R"({"weight_map":{"x":"absent"}})");
  EXPECT_EQ(format_error(), where + ": expected model.safetensors or model.safetensors.index.json, got both");
  std::filesystem::remove(folder / "model.safetensors");
  EXPECT_EQ(error_of<IoError>([&] { Checkpoint::open(where); }),
            where + "/absent: cannot open: No such file or directory");
  EXPECT_EQ(error_of<IoError>([&] { Checkpoint::open(where + "/none"); }),
            where + "/none: cannot open: No such file or directory");
}

// Data at every distance from an aligned address: as foreign writers leave it that do not pad their headers.
TEST(checkpoint, reads_tensors_that_are_not_aligned) {
  std::string whole;
  {
    const ScratchFolder folder;
    SafetensorsWriter writer(folder / "a", kSpecs);
    for (const TensorSpec& spec : kSpecs) writer.append(spec.name, bytes_of_text(pattern(spec)));
    writer.commit();
    whole = contents(folder / "a");
  }
  for (size_t shift = 0; shift < 8; ++shift) {
    std::string memory(shift, ' ');
    memory += whole;
    const Checkpoint c = Checkpoint::from_memory(bytes_of_text(memory).subspan(shift), "memory");
    expect_specs(c);
    EXPECT_EQ(c.find("i64")->data, c.find("i64")->data);  // one copy, however often it is asked for
    for (const std::string& name : c.names()) c.release(*c.find(name)), c.prefetch(*c.find(name));
    expect_specs(c);
  }
}

TEST(checkpoint, views_outlive_the_first_object) {
  const std::string path = LINNET_SOURCE_DIR "/tests/data/tiny-fp32/model.safetensors";
  auto first = std::make_unique<Checkpoint>(Checkpoint::open(path));
  const Checkpoint second = *first;
  const ConstTensor norm = second.find("model.norm.weight").value();
  const float value = norm.as<float>()[63];
  first.reset();
  second.release(norm);
  second.prefetch(norm);
  EXPECT_EQ(norm.as<float>()[63], value);
}

}  // namespace
}  // namespace linnet::formats
