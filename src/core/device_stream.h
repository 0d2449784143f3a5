// Work on a device: a stream takes it in order, events tell how far it is.
#pragma once

#include <memory>

#include "core/device.h"

namespace linnet {

// A status-returning destructor of the table, called with the handle's device current. What it returns has nowhere to go.
struct DeviceDeleter {
  int32_t (*destroy)(void*) = nullptr;
  int32_t (*set_device)(int32_t) = nullptr;
  int32_t device = 0;
  void operator()(void* handle) const noexcept {
    set_device(device);
    destroy(handle);
  }
};
using DeviceHandle = std::unique_ptr<void, DeviceDeleter>;

// A point in a stream's work. Not recorded yet: done.
class Event {
 public:
  explicit Event(const Device& device);  // throws DeviceError
  bool done() const;                     // throws DeviceError
  void synchronize() const;              // waits for it; throws DeviceError, also of work that failed before it
  void* handle() const { return handle_.get(); }

 private:
  Device device_;
  DeviceHandle handle_;
};

// Milliseconds between two recorded events that are done. Throws DeviceError when one is not.
float milliseconds_between(const Device& device, const Event& begin, const Event& end);

// An operator of the module with arguments of type Args. Throws Unsupported when the module lacks it or was built with another Args.
template <class Args>
class DeviceOperator {
 public:
  DeviceOperator(const Device& device, const char* name) : row_(&device.find_operator(name, sizeof(Args))) {}
  size_t workspace_bytes(const Args& args) const noexcept {
    return row_->workspace_bytes ? static_cast<size_t>(row_->workspace_bytes(&args)) : 0;
  }
  const LinnetDeviceOperator& row() const { return *row_; }

 private:
  const LinnetDeviceOperator* row_;
};

// A queue of work, done in order. Calls that enqueue return at once and throw nothing: the first failure is kept and thrown by
// synchronize(), what is asked meanwhile is dropped. Memory in work must live until it is done:
// declare a stream after it. For one thread at a time.
class Stream {
 public:
  explicit Stream(const Device& device);  // throws DeviceError
  ~Stream();                              // waits for the work
  Stream(Stream&&) = default;
  Stream& operator=(Stream&&) = delete;

  void copy(void* to, const void* from, size_t bytes) noexcept;  // any direction; host memory: see PinnedBuffer
  void fill(void* to, uint8_t byte, size_t bytes) noexcept;
  template <class Args>
  void run(const DeviceOperator<Args>& op, const Args& args, void* workspace = nullptr) noexcept {
    run_row(op.row(), &args, workspace);
  }
  void record(const Event& event) noexcept;  // it is done when the work so far is
  void wait(const Event& event) noexcept;    // later work begins when the event is done
  void synchronize();  // waits for the work; throws DeviceError with the first failure since the last call

  const Device& device() const { return device_; }
  void* handle() const { return handle_.get(); }

 private:
  void run_row(const LinnetDeviceOperator& op, const void* args, void* workspace) noexcept;
  template <class Enqueue>
  void enqueue(const char* what, Enqueue call) noexcept;

  Device device_;
  DeviceHandle handle_;
  const char* failed_ = nullptr;  // what failed first
  int32_t status_ = 0;            // and how
};

}  // namespace linnet
