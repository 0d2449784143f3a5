// State files: round trips, and that nothing but an intact file is read.
#include "formats/state_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/errors.h"
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

}  // namespace
}  // namespace linnet::formats
