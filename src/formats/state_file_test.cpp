// State files: round trips, and that nothing but an intact file is read.
#include "formats/state_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/errors.h"
#include "core/text.h"
#include "formats/file_test_support.h"
#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::formats {
namespace {

using test::OwnedTensor;
using test::same_bits;
using testing::HasSubstr;

// Two sections with data, one without, one of another type.
struct Sample {
  OwnedTensor kda = OwnedTensor::normal({2, 3, 5}, 1);
  OwnedTensor tail = OwnedTensor::normal({3, 7}, 2, 1, 0, DType::bf16);
  OwnedTensor latent = OwnedTensor::zeros({0, 24});
  OwnedTensor tokens = OwnedTensor::ints({7, 8, 9});
  StateHeader header{"9f3c", {{"position", "3"}, {"note", "caf\u00e9"}}};
  std::vector<StateSection> sections{{"kda.0", kda}, {"conv.0", tail}, {"latent", latent}, {"tokens", tokens}};
};

TEST(state_file, round_trip) {
  const ScratchFolder folder;
  const Sample s;
  write_state_file(folder / "a.state", s.header, s.sections);
  const StateFile file = StateFile::read(folder / "a.state");
  EXPECT_EQ(file.header().model, s.header.model);
  EXPECT_EQ(file.header().metadata, s.header.metadata);
  ASSERT_EQ(file.sections().size(), s.sections.size());
  for (size_t i = 0; i < s.sections.size(); ++i) {
    EXPECT_EQ(file.sections()[i].name, s.sections[i].name);
    EXPECT_TRUE(same_bits(file.sections()[i].data, s.sections[i].data));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.sections()[i].data.data) % 64, 0u);
  }
  EXPECT_TRUE(same_bits(file.find("tokens").value(), s.tokens));
  EXPECT_FALSE(file.find("token"));
  EXPECT_EQ(file.place("tokens"), (folder / "a.state").string() + ": tokens");
}

// Bytes that lie in several places make the same file as bytes in one.
TEST(state_file, sections_in_parts) {
  const ScratchFolder folder;
  const OwnedTensor whole = OwnedTensor::normal({5, 32}, 1);  // 640 bytes
  write_state_file(folder / "one", {"m", {}}, std::vector<StateSection>{{"a", whole}});
  const auto bytes = std::span<const std::byte>(whole.view().data, 640);
  StateSection parts{"a", whole, {bytes.first(128), bytes.subspan(128, 512)}};
  write_state_file(folder / "parts", {"m", {}}, std::span(&parts, 1));
  EXPECT_EQ(contents(folder / "parts"), contents(folder / "one"));
  const auto refusal = [&](std::vector<std::span<const std::byte>> wrong) {
    parts.parts = std::move(wrong);
    return error_of<InvalidArgument>([&] { write_state_file(folder / "x", {"m", {}}, std::span(&parts, 1)); });
  };
  EXPECT_THAT(refusal({bytes.first(128)}), HasSubstr("expected parts of 640 bytes, got 128"));
  EXPECT_THAT(refusal({bytes.first(100), bytes.subspan(100)}), HasSubstr("expected parts of a multiple of 64 bytes"));
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

TEST(state_file, the_header_alone) {
  const ScratchFolder folder;
  const Sample s;
  write_state_file(folder / "a", s.header, s.sections);
  const StateHeader header = read_state_header(folder / "a");
  EXPECT_EQ(header.model, s.header.model);
  EXPECT_EQ(header.metadata, s.header.metadata);
  std::string bytes = contents(folder / "a");
  for (size_t n : {size_t{0}, size_t{31}, size_t{32}, size_t{100}, bytes.size() - 1})
    EXPECT_THROW(read_state_header(folder.write("cut", std::string_view(bytes).substr(0, n))), FormatError) << n;
  bytes.back() = static_cast<char>(bytes.back() ^ 1);  // of the content, which only the whole check sees
  EXPECT_NO_THROW(read_state_header(folder.write("b", bytes)));
  EXPECT_THROW(StateFile::read(folder / "b"), FormatError);
}

TEST(state_file, no_sections) {
  const ScratchFolder folder;
  write_state_file(folder / "a.state", {"m", {}}, {});
  EXPECT_TRUE(StateFile::read(folder / "a.state").sections().empty());
}

TEST(state_file, every_truncation_is_refused) {
  const ScratchFolder folder;
  const Sample s;
  write_state_file(folder / "a.state", s.header, s.sections);
  const std::string whole = contents(folder / "a.state");
  for (size_t n = 0; n < whole.size(); ++n) {
    const auto path = folder.write("cut.state", std::string_view(whole).substr(0, n));
    EXPECT_THROW(StateFile::read(path), FormatError) << n << " of " << whole.size() << " bytes";
  }
}

TEST(state_file, every_flipped_bit_is_refused) {
  const ScratchFolder folder;
  const Sample s;
  write_state_file(folder / "a.state", s.header, s.sections);
  std::string bytes = contents(folder / "a.state");
  EXPECT_NO_THROW(StateFile::from_memory(bytes_of_text(bytes), "a"));
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    EXPECT_THROW(StateFile::from_memory(bytes_of_text(bytes), "a"), FormatError) << "bit " << bit;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
  }
}

// A file whose prefix and checksum are right, around any header and any data.
std::string sealed(std::string_view json, std::string_view data) {
  std::string file = "LINNETST";
  const auto put = [&](auto number) { file.append(reinterpret_cast<const char*>(&number), sizeof number); };
  const size_t padding = (64 - (32 + json.size()) % 64) % 64;
  put(kStateFileVersion), put(static_cast<uint32_t>(json.size()));
  put(static_cast<uint64_t>(32 + json.size() + padding + data.size())), put(uint64_t{0});
  file.append(json).append(padding, '\0').append(data);
  const uint64_t sum = state_file_checksum(bytes_of_text(file));
  std::memcpy(file.data() + 24, &sum, 8);
  return file;
}

std::string refusal(const std::string& file) {
  const std::string message = error_of<FormatError>([&] { StateFile::from_memory(bytes_of_text(file), "a"); });
  EXPECT_THAT(message, testing::StartsWith("a: "));
  return message.substr(std::min<size_t>(message.size(), 3));
}

TEST(state_file, foreign_files) {
  EXPECT_EQ(refusal(""), "expected a state file of at least 32 bytes, got 0");
  EXPECT_EQ(refusal(std::string(100, 'x')), "byte 0: expected \"LINNETST\", got \"xxxxxxxx\": not a state file");
  std::string file = sealed(R"({"model":"m","metadata":{},"sections":[]})", "");
  EXPECT_NO_THROW(StateFile::from_memory(bytes_of_text(file), "a"));
  file[8] = 2;
  EXPECT_EQ(refusal(file), "byte 8: expected version 1, got 2");
  file[8] = 1, file[40] = '!';
  EXPECT_THAT(refusal(file), HasSubstr("byte 24: expected checksum "));
  EXPECT_EQ(refusal(file + "x"), "byte 16: expected the file's length 129, got 128");
}

TEST(state_file, headers_that_lie_under_a_right_checksum) {
  const std::string data(64, 'd');
  const auto section = [&](std::string_view text) {
    return refusal(sealed(cat(R"({"model":"m","metadata":{},"sections":[)", text, "]}"), data));
  };
  EXPECT_EQ(section(R"({"name":"s","dtype":"F32","shape":[17]})"),
            "sections[0].shape: s: expected at most 64 bytes, got 68");
  EXPECT_EQ(section(R"({"name":"s","dtype":"U8","shape":[1]},{"name":"t","dtype":"U8","shape":[1]})"),
            "sections[1].shape: t: expected at most 0 bytes, got 1");
  EXPECT_EQ(section(""), "expected 128 bytes as the header says, got 192");
  EXPECT_EQ(section(R"({"name":"s","dtype":"F64","shape":[1]})"),
            "sections[0].dtype: expected F32, BF16, F16, I32, I64 or U8, got \"F64\"");
  EXPECT_EQ(section(R"({"name":"s","dtype":"F32","shape":[-1]})"),
            "sections[0].shape[0]: expected integer in [0, 9223372036854775807], got -1");
  EXPECT_EQ(section(R"({"name":"s","dtype":"F32","shape":[4294967296,4294967296]})"),
            "sections[0].name: s: expected extents >= 0 whose product fits in 63 bits of bytes, got [4294967296, "
            "4294967296]");
  EXPECT_EQ(section(R"({"name":"s","dtype":"F32","shape":[1,1,1,1,1]})"),
            "sections[0].name: s: expected at most 4 extents, got [1, 1, 1, 1, 1]");
  EXPECT_EQ(section(R"({"name":"s","dtype":"F32","shape":[]})"),
            "sections[0].shape: expected at least one extent, got an array of 0");
  EXPECT_EQ(section(R"({"name":"","dtype":"F32","shape":[1]})"), "sections[0].name: : expected a name");
  EXPECT_EQ(section(R"({"name":"s","dtype":"U8","shape":[0]},{"name":"s","dtype":"U8","shape":[0]})"),
            "sections[1].name: expected another name for each section, got \"s\"");
  EXPECT_EQ(section(R"({"name":"s","dtype":"U8","shape":[64],"stride":1})"), "sections[0].stride: unknown key");
  EXPECT_EQ(refusal(sealed(R"({"metadata":{},"sections":[]})", "")), "model: expected string, got nothing");
  EXPECT_EQ(refusal(sealed(R"({"model":"m","metadata":{"k":1},"sections":[]})", "")),
            "metadata.k: expected string, got 1");
  EXPECT_EQ(refusal(sealed(R"({"model":"m","metadata":{},"sections":{}})", "")),
            "sections: expected array of object, got an object of 0");
  EXPECT_THAT(refusal(sealed("{", "")), HasSubstr("expected JSON, got "));
  std::string file = sealed("{}", "");
  file[12] = 97;  // bytes of the header: more than there are after the prefix
  const uint64_t sum = state_file_checksum(bytes_of_text(file));
  std::memcpy(file.data() + 24, &sum, 8);
  EXPECT_EQ(refusal(file), "byte 12: expected a header of at most 32 bytes, got 97");
}

TEST(state_file, sections_that_cannot_be_written) {
  const ScratchFolder folder;
  const OwnedTensor t = OwnedTensor::zeros({2, 3});
  ConstTensor strided = t;
  strided.shape[1] = 2;
  const auto refused = [&](const std::vector<StateSection>& sections, const StateHeader& header = {"m", {}}) {
    const std::string message = error_of<InvalidArgument>([&] { write_state_file(folder / "a", header, sections); });
    return message.substr(std::min(message.size(), (folder / "a").string().size() + 2));
  };
  EXPECT_EQ(refused({{"s", strided}}), "s: expected a dense tensor, got a strided one");
  EXPECT_EQ(refused({{"s", {}}}), "s: expected a tensor, got none");
  EXPECT_EQ(refused({{"s", t}, {"s", t}}), "s: expected one such section, got two");
  EXPECT_EQ(refused({{"", t}}), ": expected a name");
  EXPECT_EQ(refused({{"s", t}}, {"\xff", {}}), "expected names and metadata in UTF-8");
  EXPECT_EQ(folder.n_files(), 0u);
}

}  // namespace
}  // namespace linnet::formats
