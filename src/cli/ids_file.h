// Token ids in a safetensors file: input_ids [B, T], int32 or int64.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace linnet::cli {

struct IdsFile {
  int64_t n_rows = 0, n_tokens = 0;  // B, T
  std::vector<int32_t> ids;          // [B, T]
  std::span<const int32_t> row(int64_t b) const {
    return std::span(ids).subspan(static_cast<size_t>(b * n_tokens), static_cast<size_t>(n_tokens));
  }
};

// Throws FormatError naming the file: no such tensor, another type or rank, an id outside [0, vocab_size).
IdsFile read_ids_file(const std::filesystem::path& file, int64_t vocab_size);

}  // namespace linnet::cli
