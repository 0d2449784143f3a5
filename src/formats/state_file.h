// The file of one sequence's state: named tensors with a header that says which model they belong to, under a checksum.
//
//   byte  0  "LINNETST"                        byte 16  u64 bytes of the whole file
//   byte  8  u32 version                       byte 24  u64 xxHash64, seed 0, of bytes [0, 24) and [32, end)
//   byte 12  u32 bytes of the JSON header      byte 32  the JSON header, then zeros up to a multiple of 64
// then each section's bytes in the header's order, each followed by zeros up to a multiple of 64. All little-endian.
// JSON: {"model": "...", "metadata": {"k": "v"}, "sections": [{"name": "kda.0", "dtype": "F32", "shape": [2, 16, 16]}]}
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"
#include "formats/tensor_spec.h"

namespace linnet::formats {

constexpr uint32_t kStateFileVersion = 1;

struct StateHeader {
  std::string model;  // identifies the model: a hash of its configuration and weights
  Metadata metadata;
};

struct StateSection {
  std::string name;
  ConstTensor data;  // dense
  // For writing: where the bytes lie when not at `data`, in order; each part but the last is a multiple of kAlignment.
  std::vector<std::span<const std::byte>> parts = {};
};

// Written atomically: see AtomicFile. Throws InvalidArgument for a section without name, twice named or strided, or whose parts are
// not its bytes; IoError.
void write_state_file(const std::filesystem::path& path, const StateHeader& header,
                      std::span<const StateSection> sections);

// A state file that passed every check: magic, version, length, checksum, header, sections. Views live as long as any copy.
class StateFile {
 public:
  static StateFile read(const std::filesystem::path& path);  // mapped; throws IoError, FormatError
  // The same for bytes in memory that stay there, 64-byte aligned; `place` begins the messages.
  static StateFile from_memory(std::span<const std::byte> file, std::string place);

  const StateHeader& header() const;
  const std::vector<StateSection>& sections() const;
  std::optional<ConstTensor> find(std::string_view name) const;
  const std::string& place() const;                   // "PATH", for messages
  std::string place(std::string_view section) const;  // "PATH: kda.0"

 private:
  struct State;
  explicit StateFile(std::shared_ptr<const State> state) : state_(std::move(state)) {}

  std::shared_ptr<const State> state_;
};

// The header alone: magic, version, length and the header's form are checked, the content is not read.
StateHeader read_state_header(const std::filesystem::path& path);

// The checksum that belongs at byte 24 of these bytes (at least 32).
uint64_t state_file_checksum(std::span<const std::byte> file);

}  // namespace linnet::formats
