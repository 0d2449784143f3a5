#include "core/arena.h"

#include <sys/mman.h>

#include "core/errors.h"
#include "core/text.h"

namespace linnet {

Buffer::Buffer(size_t bytes) {
  if (bytes == 0) return;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw OutOfMemory(cat("memory: the system has no room for a block of ", bytes_text(bytes)));
  memory_ = {static_cast<std::byte*>(memory), Unmap{bytes}};
}

void Buffer::Unmap::operator()(std::byte* p) const noexcept { munmap(p, bytes); }

}  // namespace linnet
