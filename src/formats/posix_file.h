// What the readers and writers of files share: an owned descriptor, and IoError with the system's own reason.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <utility>

namespace linnet::formats {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

struct OpenFile {
  FileDescriptor descriptor;
  uint64_t bytes;
};

// Opens for reading. Throws IoError when the system refuses, or when path names anything but a regular file (a FIFO would
// block, a device has no size); symbolic links are followed.
OpenFile open_regular_file(const std::filesystem::path& path);

// Throws IoError "PATH: WHAT: No space left on device".
[[noreturn]] void throw_io_error(const std::filesystem::path& path, std::string_view what, int error_number);

}  // namespace linnet::formats
