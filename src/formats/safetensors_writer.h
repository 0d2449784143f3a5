// Writes one file in the safetensors format.
#pragma once

#include <atomic>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/atomic_file.h"
#include "formats/tensor_spec.h"

namespace linnet::formats {

// One file. All tensors are declared first, so the disk space is taken and every tensor has its place before any data comes.
// In the file, wider elements come first and the data starts at a multiple of 64 bytes, so each tensor is aligned for
// its type. Nothing appears under the name before commit(). Failures: InvalidArgument (the caller), IoError (the disk).
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorSpec>& tensors,
                    const Metadata& metadata = {{"format", "pt"}});

  // The next bytes of a tensor, in chunks of any length.
  void append(std::string_view name, std::span<const std::byte> data);
  // Bytes anywhere in a tensor. Different threads may write at once, one tensor or several. Each byte is written once, and
  // a tensor either by append() or by write_at().
  void write_at(std::string_view name, uint64_t offset, std::span<const std::byte> data);

  void commit();  // throws InvalidArgument when a tensor has not received as many bytes as it has

 private:
  struct Slot {
    uint64_t begin, bytes;
    std::atomic<uint64_t> written{0};
  };
  Slot& slot_of(std::string_view name);

  AtomicFile file_;
  std::map<std::string, Slot, std::less<>> slots_;
};

}  // namespace linnet::formats
