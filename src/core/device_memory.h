// Memory of a device, with the contracts of arena.h: an owned, zeroed, aligned block, and a stack of temporaries inside one.
#pragma once

#include "core/arena.h"
#include "core/device_stream.h"

namespace linnet {

constexpr size_t kDeviceAlignment = 256;

constexpr size_t device_aligned_size(size_t bytes) {
  return (bytes + kDeviceAlignment - 1) / kDeviceAlignment * kDeviceAlignment;
}

// Owned zeroed memory of a device. Unlike a Buffer it is taken in full at once.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const Device& device,
               size_t bytes);  // throws OutOfMemory naming the size; the zeros are there on return
  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  size_t size() const { return bytes_; }

 private:
  DeviceHandle memory_;
  size_t bytes_ = 0;
};

// Owned page-locked memory of the host, contents undefined: a stream's copies from and to it run beside the CPU. Those of other
// host memory may block.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(const Device& device, size_t bytes);  // throws OutOfMemory naming the size
  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  size_t size() const { return bytes_; }

 private:
  DeviceHandle memory_;
  size_t bytes_ = 0;
};

// A stack of temporaries in device memory. Scope marks the current height and restores it. The work that uses them is enqueued, not
// done, when a Scope ends: one DeviceWorkspace belongs to one stream, whose order keeps the next user behind. The block is real
// memory, so take() throws OutOfMemory when it is too small (a Workspace asserts).
class DeviceWorkspace {
 public:
  explicit DeviceWorkspace(const Device& device, size_t bytes = 0)
      : device_(device), buffer_(device, device_aligned_size(bytes)) {}

  size_t capacity() const { return buffer_.size(); }  // what was asked for, rounded up to the alignment
  size_t peak() const { return peak_; }               // bytes of the highest use so far
  void reserve(size_t bytes);  // only while nothing is taken and the stream has no work; throws OutOfMemory

  template <class T>
  T* take(int64_t count) {
    return reinterpret_cast<T*>(take_bytes(static_cast<size_t>(count) * sizeof(T)));
  }

  class Scope {
   public:
    explicit Scope(DeviceWorkspace& w) : workspace_(w), mark_(w.used_) {}
    ~Scope() { workspace_.used_ = mark_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    DeviceWorkspace& workspace_;
    size_t mark_;
  };

 private:
  std::byte* take_bytes(size_t bytes);

  Device device_;
  DeviceBuffer buffer_;
  size_t used_ = 0, peak_ = 0;
};

}  // namespace linnet
