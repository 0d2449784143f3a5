// The quick checks of linnet doctor: does the CPU compute what the definition says, does a device take work.
#pragma once

#include <string>

#include "core/device.h"
#include "core/thread_pool.h"

namespace linnet::cli {

struct CpuCheck {
  std::string variant;  // of linear_attn: what was chosen for this machine
  double error = 0;     // largest difference from the definition in double, over its largest value
  std::string failure;  // empty when it computes right
};

// A KDA layer's recurrence over a hundred tokens: vector code, chunks and steps. Some milliseconds.
CpuCheck check_cpu(ThreadPool& pool);

// Memory there and back, and one launch of a kernel that finds nothing to do. Empty when that works, else what did not. Creates
// the driver's context on the device: some tenths of a second.
std::string check_device(const Device& device);

}  // namespace linnet::cli
