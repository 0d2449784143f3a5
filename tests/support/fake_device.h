// A device module without a device, for tests: "device memory" is the host's, and work waits in its stream until somebody waits for it.
// The library exports linnet_device_module and fake_device_settings.
#pragma once

#include <cstdint>

namespace linnet::test {

// What the module pretends, and what it counts. Set before the module is asked.
struct FakeSettings {
  int32_t driver = 13010, count = 1, major = 9, minor = 0;
  int32_t count_status = 0;         // of device_count
  uint64_t memory_bytes = 1 << 20;  // allocations beyond them fail
  int32_t copy_status = 0;          // of the copies that are enqueued from now on
  int32_t n_live = 0;               // allocations, streams and events not released yet
  int32_t device = -1;              // the current one
  int32_t n_scaled = 0;             // runs of the operator "scale"
};
using FakeSettingsFunction = FakeSettings* (*)();

// The one operator, "scale": x[i] *= by.
struct ScaleArgs {
  float* x;
  int64_t n;
  float by;
};

constexpr int32_t kFakeOutOfMemory = 2, kFakeNotDone = 3, kFakeBroken = 4;

}  // namespace linnet::test
