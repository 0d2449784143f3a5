// Devices beside the CPU: a module (device_abi.h) that is opened when somebody asks, what it found, and one of its devices.
// Nothing here needs CUDA, and a program that does not ask opens nothing.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/device_abi.h"

namespace linnet {

// A shared library with the table of device_abi.h. It stays open: drivers do not like to be unloaded.
struct DeviceModule {
  std::filesystem::path path;                 // empty when none was found
  const LinnetDeviceModule* table = nullptr;  // null: refusal says why
  std::string refusal;
};

DeviceModule open_device_module(const std::filesystem::path& path);

// The file that $LINNET_CUDA_MODULE names, else liblinnet_cuda.so in `program_folder` (a build tree), else in ../lib/linnet beside it
// (an installed program).
DeviceModule find_device_module(const std::filesystem::path& program_folder);

struct DeviceInfo {
  int index = 0;
  std::string name, bus_id;
  int compute_major = 0, compute_minor = 0, n_multiprocessors = 0;
  uint64_t memory_bytes = 0, l2_bytes = 0, shared_bytes = 0;  // shared: of one block at most
  std::string refusal;                                        // why the module cannot use it; empty when it can
};

struct Devices {
  DeviceModule module;
  int driver_version = 0;         // 13000 is CUDA 13.0; 0: no driver, or no module to ask
  std::vector<DeviceInfo> found;  // all that the driver lists
  std::string refusal;            // why none of them is usable; empty when one is
};

// Asks the module's driver. Throws nothing: what goes wrong is the refusal.
Devices look_for_devices(DeviceModule module);

// What NVIDIA's kernel driver says of itself, without any library of it.
struct KernelDriver {
  std::string version;            // "580.159.04"; empty: it is not loaded
  std::vector<std::string> gpus;  // names
};
KernelDriver kernel_driver(const std::filesystem::path& folder = "/proc/driver/nvidia");

// Those of this program, found with the first call.
const Devices& devices();

// One usable device. A handle: copy it freely. The Devices must outlive it and all that is made with it.
class Device {
 public:
  // Throws Unsupported with the reason when there is no such device, or the module has no code for it.
  explicit Device(int index = 0, const Devices& devices = linnet::devices());

  const DeviceInfo& info() const { return devices_->found[static_cast<size_t>(index_)]; }
  const LinnetDeviceModule& table() const { return *devices_->module.table; }
  uint64_t free_bytes() const;

  // Of the calling thread; everything made with this device does it by itself. Returns the table's status.
  int32_t make_current() const noexcept { return table().set_device(index_); }

  // Throws OutOfMemory or DeviceError, with the place, unless the status is 0.
  void check(int32_t status, const std::string& place) const;

  // Throws Unsupported when the module has no operator of that name, or one with other arguments than the program knows.
  const LinnetDeviceOperator& find_operator(const char* name, size_t args_bytes) const;

 private:
  const Devices* devices_;
  int index_;
};

}  // namespace linnet
