// MappedFile: the bytes of a file, read-only, in the address space. And small text files, read whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace linnet::formats {

// The mapping starts on a page boundary, so offsets in the file keep their alignment in memory. Bytes come from the page
// cache when touched. The file must not shrink while mapped: the system answers a touch beyond its end with SIGBUS.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(std::filesystem::path path);  // throws IoError; an empty file has no bytes
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    swap(other);
    return *this;
  }
  ~MappedFile();

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }

  // Hints, for the pages of `part` that lie in this mapping: read them ahead, or give their memory back (they stay readable).
  void prefetch(std::span<const std::byte> part) const noexcept;
  void release(std::span<const std::byte> part) const noexcept;

 private:
  void swap(MappedFile& other) noexcept;

  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

// The whole file. Throws IoError, or FormatError when it is longer than max_bytes.
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes);

}  // namespace linnet::formats
