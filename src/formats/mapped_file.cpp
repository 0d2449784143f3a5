#include "formats/mapped_file.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/errors.h"
#include "core/text.h"
#include "formats/posix_file.h"

namespace linnet::formats {
namespace {

// Advice for the whole pages around (or, for giving back, inside) the part of `mapping` that `part` covers.
void advise(std::span<const std::byte> mapping, std::span<const std::byte> part, int advice, bool outwards) noexcept {
  static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (mapping.empty() || part.empty()) return;
  const auto base = reinterpret_cast<uintptr_t>(mapping.data());
  const auto first = reinterpret_cast<uintptr_t>(part.data());
  size_t begin = std::clamp(first, base, base + mapping.size()) - base;
  size_t end = std::clamp(first + part.size(), base, base + mapping.size()) - base;
  if (begin >= end) return;
  const bool to_end = end == mapping.size();  // the last page is only partly file
  begin = (outwards ? begin : begin + page - 1) / page * page;
  end = (outwards || to_end ? end + page - 1 : end) / page * page;
  if (begin < end) madvise(const_cast<std::byte*>(mapping.data()) + begin, end - begin, advice);
}

}  // namespace

MappedFile::MappedFile(std::filesystem::path path) : path_(std::move(path)) {
  const OpenFile file = open_regular_file(path_);
  if (file.bytes == 0) return;
  void* memory = mmap(nullptr, file.bytes, PROT_READ, MAP_PRIVATE, file.descriptor.get(), 0);
  if (memory == MAP_FAILED) throw_io_error(path_, cat("cannot map ", bytes_text(file.bytes)), errno);
  bytes_ = {static_cast<const std::byte*>(memory), file.bytes};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::swap(MappedFile& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
}

void MappedFile::prefetch(std::span<const std::byte> part) const noexcept { advise(bytes_, part, MADV_WILLNEED, true); }
void MappedFile::release(std::span<const std::byte> part) const noexcept { advise(bytes_, part, MADV_DONTNEED, false); }

std::string read_text_file(const std::filesystem::path& path, size_t max_bytes) {
  const OpenFile file = open_regular_file(path);
  if (file.bytes > max_bytes)
    throw FormatError(
        cat(path.string(), ": expected at most ", bytes_text(max_bytes), ", got ", bytes_text(file.bytes)));
  std::string text(file.bytes, '\0');
  size_t at = 0;
  while (at < text.size()) {
    const ssize_t got = read(file.descriptor.get(), text.data() + at, text.size() - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_io_error(path, cat("cannot read at byte ", at), errno);
    if (got == 0) throw IoError(cat(path.string(), ": expected ", text.size(), " bytes, got ", at));
    at += static_cast<size_t>(got);
  }
  return text;
}

}  // namespace linnet::formats
