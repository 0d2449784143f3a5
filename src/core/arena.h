// Memory: an owned, cache-line aligned block, and a stack of temporaries inside one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/tensor.h"

namespace linnet {

constexpr size_t kAlignment = 64;  // a cache line, and an AVX-512 register

constexpr size_t aligned_size(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Owned zeroed memory, mapped from the system: address space only, a page becomes real when it is first touched.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);  // throws OutOfMemory naming the size
  void grow(size_t bytes);  // keeps the contents without copying them; may move. Throws OutOfMemory, then unchanged
  void clear() noexcept;    // back to zeros, pages returned to the system
  std::byte* data() const { return memory_.get(); }
  size_t size() const { return memory_.get_deleter().bytes; }

 private:
  struct Unmap {
    size_t bytes;
    void operator()(std::byte* p) const noexcept;
  };
  std::unique_ptr<std::byte, Unmap> memory_{nullptr, Unmap{0}};
};

// A stack of temporaries. Scope marks the current height and restores it, so a function's temporaries end with it.
// The block is address space (see Buffer), so a Workspace as large as the machine's memory costs what its highest use touches,
// and take() cannot fail before memory itself does. take() asserts that the block is large enough.
class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(size_t bytes) : buffer_(bytes) {}

  size_t capacity() const { return buffer_.size(); }
  size_t peak() const { return peak_; }  // bytes of the highest use so far
  void reserve(size_t bytes) {
    if (bytes > capacity()) buffer_ = Buffer(bytes);
  }  // only while nothing is taken

  template <class T>
  T* take(int64_t count) noexcept {
    std::byte* at = buffer_.data() + used_;
    used_ += aligned_size(static_cast<size_t>(count) * sizeof(T));
    assert(used_ <= capacity());
    peak_ = used_ > peak_ ? used_ : peak_;
    return reinterpret_cast<T*>(at);
  }
  template <class T>
  Tensor tensor(std::initializer_list<int64_t> dims) noexcept {
    int64_t n = 1;
    for (int64_t d : dims) n *= d;
    return Tensor::of(take<T>(n), dims);
  }

  class Scope {
   public:
    explicit Scope(Workspace& w) : workspace_(w), mark_(w.used_) {}
    ~Scope() { workspace_.used_ = mark_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t mark_;
  };

 private:
  Buffer buffer_;
  size_t used_ = 0, peak_ = 0;
};

size_t physical_memory_bytes();   // of the machine
size_t available_memory_bytes();  // what new allocations may use without swapping, as the kernel estimates it

}  // namespace linnet
