#include "core/device_stream.h"

#include <utility>

namespace linnet {
namespace {

DeviceHandle make_handle(const Device& device, const char* what, int32_t (*create)(void**), int32_t (*destroy)(void*)) {
  device.check(device.make_current(), what);
  void* handle = nullptr;
  device.check(create(&handle), what);
  return {handle, {.destroy = destroy, .set_device = device.table().set_device, .device = device.info().index}};
}

}  // namespace

Event::Event(const Device& device)
    : device_(device),
      handle_(make_handle(device, "event", device.table().event_create, device.table().event_destroy)) {}

bool Event::done() const {
  int32_t done = 0;
  device_.check(device_.make_current(), "event");
  device_.check(device_.table().event_done(handle(), &done), "event");
  return done != 0;
}

void Event::synchronize() const {
  device_.check(device_.make_current(), "event");
  device_.check(device_.table().event_synchronize(handle()), "event");
}

float milliseconds_between(const Device& device, const Event& begin, const Event& end) {
  float milliseconds = 0;
  device.check(device.make_current(), "time between events");
  device.check(device.table().event_elapsed(&milliseconds, begin.handle(), end.handle()), "time between events");
  return milliseconds;
}

Stream::Stream(const Device& device)
    : device_(device),
      handle_(make_handle(device, "stream", device.table().stream_create, device.table().stream_destroy)) {}

Stream::~Stream() {
  if (!handle_) return;
  device_.make_current();
  device_.table().stream_synchronize(handle());
}

template <class Enqueue>
void Stream::enqueue(const char* what, Enqueue call) noexcept {
  if (status_) return;
  status_ = device_.make_current();
  if (!status_) status_ = call(device_.table());
  if (status_) failed_ = what;
}

void Stream::copy(void* to, const void* from, size_t bytes) noexcept {
  enqueue("copy", [&](const LinnetDeviceModule& t) { return t.copy(to, from, bytes, handle()); });
}

void Stream::fill(void* to, uint8_t byte, size_t bytes) noexcept {
  enqueue("fill", [&](const LinnetDeviceModule& t) { return t.fill(to, byte, bytes, handle()); });
}

void Stream::run_row(const LinnetDeviceOperator& op, const void* args, void* workspace) noexcept {
  enqueue(op.name, [&](const LinnetDeviceModule&) { return op.enqueue(args, workspace, handle()); });
}

void Stream::record(const Event& event) noexcept {
  enqueue("event", [&](const LinnetDeviceModule& t) { return t.event_record(event.handle(), handle()); });
}

void Stream::wait(const Event& event) noexcept {
  enqueue("event", [&](const LinnetDeviceModule& t) { return t.stream_wait(handle(), event.handle()); });
}

void Stream::synchronize() {
  enqueue("stream", [&](const LinnetDeviceModule& t) { return t.stream_synchronize(handle()); });
  if (!status_) return;
  device_.table().stream_synchronize(handle());  // what was enqueued before the failure
  device_.check(std::exchange(status_, 0), failed_);
}

}  // namespace linnet
