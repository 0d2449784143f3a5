#include "support/fake_device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>

#include "core/device_abi.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace linnet::test {
namespace {

FakeSettings g;
std::map<void*, uint64_t> g_allocations;
uint64_t g_used = 0;

struct FakeStream {
  std::deque<std::function<void()>> work;
  uint64_t n_done = 0;
  uint64_t n_enqueued() const { return n_done + work.size(); }
  void run_until(uint64_t n) {
    while (n_done < n) {
      const auto next = std::move(work.front());
      work.pop_front();
      ++n_done;
      next();
    }
  }
};
FakeStream g_default;

struct FakeEvent {
  FakeStream* stream = nullptr;
  uint64_t after = 0;  // pieces of the stream's work
};

FakeStream* stream_of(void* stream) { return stream ? static_cast<FakeStream*>(stream) : &g_default; }

int32_t enqueue(void* stream, std::function<void()> work) {
  stream_of(stream)->work.push_back(std::move(work));
  return 0;
}

int32_t device_info(int32_t device, LinnetDeviceInfo* info) {
  *info = {};
  std::strcpy(info->name, "Fake GPU");
  std::strcpy(info->bus_id, "0000:00:00.0");
  info->compute_major = g.major, info->compute_minor = g.minor;
  info->usable = g.major == 9 && device == g.count - 1;  // the last one
  info->n_multiprocessors = 132;
  info->memory_bytes = g.memory_bytes;
  return 0;
}

int32_t allocate(void** memory, uint64_t bytes) {
  if (bytes > g.memory_bytes - g_used) return kFakeOutOfMemory;
  *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  std::memset(*memory, 0x3e, bytes);
  g_allocations[*memory] = bytes;
  g_used += bytes;
  ++g.n_live;
  return 0;
}
int32_t release(void* memory) {
  const auto at = g_allocations.find(memory);
  if (at == g_allocations.end()) return kFakeBroken;
  g_used -= at->second;
  g_allocations.erase(at);
  std::free(memory);
  --g.n_live;
  return 0;
}

int32_t copy(void* to, const void* from, uint64_t bytes, void* stream) {
  if (g.copy_status) return g.copy_status;
  return enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}
int32_t fill(void* to, int32_t byte, uint64_t bytes, void* stream) {
  return enqueue(stream, [=] { std::memset(to, byte, bytes); });
}

int32_t stream_create(void** stream) {
  *stream = new FakeStream;
  ++g.n_live;
  return 0;
}
int32_t stream_destroy(void* stream) {
  delete static_cast<FakeStream*>(stream);
  --g.n_live;
  return 0;
}
int32_t stream_synchronize(void* stream) {
  stream_of(stream)->run_until(stream_of(stream)->n_enqueued());
  return 0;
}

int32_t event_create(void** event) {
  *event = new FakeEvent;
  ++g.n_live;
  return 0;
}
int32_t event_destroy(void* event) {
  delete static_cast<FakeEvent*>(event);
  --g.n_live;
  return 0;
}
int32_t event_record(void* event, void* stream) {
  *static_cast<FakeEvent*>(event) = {stream_of(stream), stream_of(stream)->n_enqueued()};
  return 0;
}
int32_t event_synchronize(void* event) {
  const FakeEvent& e = *static_cast<FakeEvent*>(event);
  if (e.stream) e.stream->run_until(e.after);
  return 0;
}
int32_t event_done(void* event, int32_t* done) {
  const FakeEvent& e = *static_cast<FakeEvent*>(event);
  *done = !e.stream || e.stream->n_done >= e.after;
  return 0;
}
int32_t event_elapsed(float* milliseconds, void* begin, void* end) {
  int32_t began = 0, ended = 0;
  event_done(begin, &began), event_done(end, &ended);
  *milliseconds = 1;
  return began && ended ? 0 : kFakeNotDone;
}
int32_t stream_wait(void* stream, void* event) {
  return enqueue(stream, [e = *static_cast<FakeEvent*>(event)] {
    if (e.stream) e.stream->run_until(e.after);
  });
}

const char* error_text(int32_t status) {
  switch (status) {
    case kFakeOutOfMemory: return "fakeErrorMemory: out of memory";
    case kFakeNotDone: return "fakeErrorNotDone: not done";
    default: return "fakeErrorBroken: broken";
  }
}

int32_t run_scale(const void* args, void*, void* stream) {
  const ScaleArgs a = *static_cast<const ScaleArgs*>(args);
  if (a.n < 0) return kFakeBroken;
  ++g.n_scaled;
  return enqueue(stream, [a] {
    for (int64_t i = 0; i < a.n; ++i) a.x[i] *= a.by;
  });
}

constexpr LinnetDeviceOperator kOperators[] = {
    {.name = "scale",
     .args_bytes = sizeof(ScaleArgs),
     .workspace_bytes = [](const void* args) { return static_cast<uint64_t>(static_cast<const ScaleArgs*>(args)->n); },
     .enqueue = run_scale},
};

// FAKE_DEVICE in the environment, for other processes: "COUNT MAJOR DRIVER".
LinnetDeviceModule make_table() {
  if (const char* text = std::getenv("FAKE_DEVICE")) std::sscanf(text, "%d %d %d", &g.count, &g.major, &g.driver);
  return {.abi_version = LINNET_DEVICE_ABI,
          .table_bytes = sizeof(LinnetDeviceModule),
          .kind = "fake",
          .driver_wanted = "the fake driver for 13 or newer",
          .devices_wanted = "9.0 (Fake)",
          .runtime_version = 13000,
          .n_operators = 1,
          .operators = kOperators,
          .driver_version = [](int32_t* version) { return *version = g.driver, 0; },
          .device_count = [](int32_t* count) { return *count = g.count, g.count_status; },
          .device_info = device_info,
          .set_device = [](int32_t device) { return g.device = device, 0; },
          .memory_info =
              [](uint64_t* free, uint64_t* total) {
                *free = g.memory_bytes - g_used, *total = g.memory_bytes;
                return 0;
              },
          .error_text = error_text,
          .is_out_of_memory = [](int32_t status) -> int32_t { return status == kFakeOutOfMemory; },
          .allocate = allocate,
          .release = release,
          .allocate_host = allocate,
          .release_host = release,
          .copy = copy,
          .fill = fill,
          .stream_create = stream_create,
          .stream_destroy = stream_destroy,
          .stream_synchronize = stream_synchronize,
          .stream_wait = stream_wait,
          .event_create = event_create,
          .event_destroy = event_destroy,
          .event_record = event_record,
          .event_synchronize = event_synchronize,
          .event_done = event_done,
          .event_elapsed = event_elapsed};
}

}  // namespace
}  // namespace linnet::test

EXPORTED const LinnetDeviceModule* linnet_device_module() {
  static LinnetDeviceModule table = linnet::test::make_table();
  return &table;
}

EXPORTED linnet::test::FakeSettings* fake_device_settings() { return &linnet::test::g; }
