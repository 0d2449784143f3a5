#include "core/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <limits>

#include "core/errors.h"
#include "core/text.h"

namespace linnet {

Buffer::Buffer(size_t bytes) {
  if (bytes == 0) return;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw OutOfMemory(cat("memory: the system has no room for a block of ", bytes_text(bytes)));
  memory_ = {static_cast<std::byte*>(memory), Unmap{bytes}};
}

void Buffer::grow(size_t bytes) {
  if (bytes <= size()) return;
  if (!memory_) {
    *this = Buffer(bytes);
    return;
  }
  void* memory = mremap(memory_.get(), size(), bytes, MREMAP_MAYMOVE);
  if (memory == MAP_FAILED) throw OutOfMemory(cat("memory: the system has no room for a block of ", bytes_text(bytes)));
  (void)memory_.release();
  memory_ = {static_cast<std::byte*>(memory), Unmap{bytes}};
}

void Buffer::clear() noexcept {
  if (memory_) madvise(memory_.get(), size(), MADV_DONTNEED);  // private anonymous pages read as zero afterwards
}

void Buffer::Unmap::operator()(std::byte* p) const noexcept { munmap(p, bytes); }

size_t physical_memory_bytes() {
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
}

size_t available_memory_bytes() {
  std::ifstream info("/proc/meminfo");
  for (std::string key; info >> key;) {
    size_t kib = 0;
    if (key == "MemAvailable:" && info >> kib) return kib * 1024;
    info.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return physical_memory_bytes();
}

}  // namespace linnet
