#include "formats/posix_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::formats {
namespace {

const char* kind_text(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

void throw_io_error(const std::filesystem::path& path, std::string_view what, int error_number) {
  throw IoError(cat(path.string(), ": ", what, ": ", std::generic_category().message(error_number)));
}

OpenFile open_regular_file(const std::filesystem::path& path) {
  FileDescriptor descriptor(
      open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // O_NONBLOCK: a FIFO returns at once
  if (!descriptor) throw_io_error(path, "cannot open", errno);
  struct stat status;
  if (fstat(descriptor.get(), &status) != 0) throw_io_error(path, "cannot read its size", errno);
  if (!S_ISREG(status.st_mode))
    throw IoError(cat(path.string(), ": expected a regular file, got ", kind_text(status.st_mode)));
  return {std::move(descriptor), static_cast<uint64_t>(status.st_size)};
}

}  // namespace linnet::formats
