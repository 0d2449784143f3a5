// AtomicFile: a file that appears under its name complete and on disk, or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "formats/posix_file.h"

namespace linnet::formats {

// How the bytes exist before commit(). unnamed: as a file without a name (O_TMPFILE), which even a killed process cannot leave
// behind; where the file system has no such files: as named. named: as ".linnet-PID-N.tmp" in the target's folder.
enum class Temporary { unnamed, named };

// Until commit() an existing file of that name stays as it was; without commit() the destructor leaves nothing. Every failure
// throws IoError "PATH: what was tried: the system's reason", and the object is then good only for destruction.
class AtomicFile {
 public:
  // An existing target must be a regular file (a rename would replace a device by a file); a symbolic link is followed.
  explicit AtomicFile(const std::filesystem::path& path, Temporary kind = Temporary::unnamed);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  const std::filesystem::path& path() const { return path_; }

  // Takes the disk space now, so that a full disk shows before the work and not at its end. The file is then this long.
  void reserve(uint64_t bytes);
  void append(std::span<const std::byte> data);
  void append(std::string_view text) { append(std::as_bytes(std::span(text))); }
  void write_at(uint64_t offset, std::span<const std::byte> data);  // from any number of threads

  void commit();  // data to disk, rename over the target, folder to disk

 private:
  std::filesystem::path path_;       // as the caller named it: for messages
  std::filesystem::path target_;     // symbolic links resolved
  std::filesystem::path temporary_;  // empty while the file has no name
  FileDescriptor descriptor_;
  uint64_t end_ = 0;  // where append() writes
};

}  // namespace linnet::formats
