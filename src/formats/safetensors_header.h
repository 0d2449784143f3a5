// The header of a safetensors file: 8 bytes of little-endian length, that much JSON, then the tensors' bytes without gaps.
// Format: huggingface/safetensors README.md, section "Format".
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tensor_spec.h"

namespace linnet::formats {

constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;  // the limit of the format's own implementation

struct SafetensorsHeader {
  struct Entry {
    TensorSpec spec;
    uint64_t begin = 0, end = 0;  // bytes, from the start of the file
  };
  std::vector<Entry> tensors;  // by name
  Metadata metadata;           // the strings of "__metadata__"
};

// Checks everything that the header promises against the bytes that are there: afterwards each entry lies inside `file`, is as
// long as its shape says, overlaps no other, and nothing is left between or after them. Throws FormatError, beginning
// with `place` (the file's path).
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, std::string_view place);

}  // namespace linnet::formats
