#include "core/device_memory.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"

namespace linnet {
namespace {

DeviceHandle allocate(const Device& device, size_t bytes, const char* what, int32_t (*create)(void**, uint64_t),
                      int32_t (*destroy)(void*)) {
  if (bytes == 0) return {};
  device.check(device.make_current(), what);
  void* memory = nullptr;
  if (const int32_t status = create(&memory, bytes)) device.check(status, cat(what, " of ", bytes_text(bytes)));
  return {memory, {.destroy = destroy, .set_device = device.table().set_device, .device = device.info().index}};
}

}  // namespace

DeviceBuffer::DeviceBuffer(const Device& device, size_t bytes)
    : memory_(allocate(device, bytes, "device memory", device.table().allocate, device.table().release)),
      bytes_(bytes) {
  if (bytes == 0) return;
  device.check(device.table().fill(data(), 0, bytes, nullptr), "device memory");
  device.check(device.table().stream_synchronize(nullptr), "device memory");
}

PinnedBuffer::PinnedBuffer(const Device& device, size_t bytes)
    : memory_(allocate(device, bytes, "page-locked memory", device.table().allocate_host, device.table().release_host)),
      bytes_(bytes) {}

void DeviceWorkspace::reserve(size_t bytes) {
  assert(used_ == 0);
  if (bytes <= capacity()) return;
  buffer_ = {};  // both together may be more than the device has
  buffer_ = DeviceBuffer(device_, device_aligned_size(bytes));
}

std::byte* DeviceWorkspace::take_bytes(size_t bytes) {
  const size_t size = device_aligned_size(bytes);
  if (size < bytes || size > capacity() - used_)
    throw OutOfMemory(cat("device workspace: expected at most ", bytes_text(capacity() - used_), " of its ",
                          bytes_text(capacity()), ", asked for ", bytes_text(bytes)));
  std::byte* at = buffer_.data() + used_;
  used_ += size;
  peak_ = std::max(peak_, used_);
  return at;
}

}  // namespace linnet
