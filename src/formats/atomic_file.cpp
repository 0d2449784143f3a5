#include "formats/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "core/errors.h"
#include "core/function_ref.h"
#include "core/text.h"

namespace linnet::formats {
namespace {

namespace fs = std::filesystem;

fs::path folder_of(const fs::path& file) { return file.has_parent_path() ? file.parent_path() : fs::path("."); }

// Where the bytes go: through symbolic links, also to a file that does not exist yet.
fs::path resolved_target(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_regular_file(status))
    throw IoError(cat(path.string(), ": expected a new name or a regular file, got a folder, device or pipe"));
  fs::path target = path;
  for (int links = 0; fs::is_symlink(fs::symlink_status(target, error)); ++links) {
    if (links == 40) throw_io_error(path, "cannot follow the symbolic link", ELOOP);  // the kernel's own limit
    target = folder_of(target) / fs::read_symlink(target, error);
    if (error) throw_io_error(path, "cannot follow the symbolic link", error.value());
  }
  return target;
}

// A name in the folder that `claim` could make; none, with errno set, when it failed. A name that exists already was left by
// a killed process that had this id.
fs::path claim_name(const fs::path& folder, FunctionRef<bool(const char*)> claim) {
  static std::atomic<unsigned> counter{0};
  for (;;) {
    fs::path name = folder / cat(".linnet-", getpid(), "-", counter++, ".tmp");
    if (claim(name.c_str())) return name;
    if (errno != EEXIST) return {};
  }
}

std::string proc_path(int fd) { return cat("/proc/self/fd/", fd); }

}  // namespace

AtomicFile::AtomicFile(const fs::path& path, Temporary kind) : path_(path), target_(resolved_target(path)) {
  if (kind == Temporary::unnamed) {
    descriptor_ = FileDescriptor(open(folder_of(target_).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666));
    // It gets its name through /proc, which a bare root may lack.
    if (descriptor_ && access(proc_path(descriptor_.get()).c_str(), F_OK) != 0) descriptor_ = FileDescriptor();
  }
  if (descriptor_) return;
  temporary_ = claim_name(folder_of(target_), [&](const char* name) {
    descriptor_ = FileDescriptor(open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666));
    return static_cast<bool>(descriptor_);
  });
  if (!descriptor_) throw_io_error(path_, cat("cannot create a file in ", folder_of(target_).string()), errno);
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void AtomicFile::reserve(uint64_t bytes) {
  if (bytes == 0) return;
  const int fd = descriptor_.get();
  if (fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0) return;
  if (errno != EOPNOTSUPP) throw_io_error(path_, cat("cannot reserve ", bytes_text(bytes)), errno);
  struct statvfs space;
  if (fstatvfs(fd, &space) == 0 && space.f_bavail * space.f_frsize < bytes)
    throw_io_error(path_, cat("cannot reserve ", bytes_text(bytes)), ENOSPC);
  if (ftruncate(fd, static_cast<off_t>(bytes)) != 0)
    throw_io_error(path_, cat("cannot grow to ", bytes_text(bytes)), errno);
}

void AtomicFile::append(std::span<const std::byte> data) {
  write_at(end_, data);
  end_ += data.size();
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t n = pwrite(descriptor_.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_io_error(path_, cat("cannot write ", bytes_text(data.size()), " at byte ", offset), errno);
    offset += static_cast<uint64_t>(n);
    data = data.subspan(static_cast<size_t>(n));
  }
}

void AtomicFile::commit() {
  if (fsync(descriptor_.get()) != 0) throw_io_error(path_, "cannot bring it to disk", errno);
  if (temporary_.empty()) {  // rename() needs a name to start from
    const std::string unnamed = proc_path(descriptor_.get());
    temporary_ = claim_name(folder_of(target_), [&](const char* name) {
      return linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0;
    });
    if (temporary_.empty()) throw_io_error(path_, "cannot give it a name", errno);
  }
  if (close(descriptor_.release()) != 0) throw_io_error(path_, "cannot close", errno);
  if (rename(temporary_.c_str(), target_.c_str()) != 0) throw_io_error(path_, "cannot rename", errno);
  temporary_.clear();
  const FileDescriptor folder(open(folder_of(target_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) throw_io_error(path_, "cannot open its folder", errno);
  if (fsync(folder.get()) != 0 && errno != EINVAL) throw_io_error(path_, "cannot bring its folder to disk", errno);
}

}  // namespace linnet::formats
