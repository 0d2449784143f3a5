#include "core/device.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "core/errors.h"
#include "core/text.h"

namespace linnet {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFileName = "liblinnet_cuda.so";

// 13000 -> "13.0"
std::string version_text(int version) { return cat(version / 1000, ".", version % 1000 / 10); }

// Why the table is of no use to this program; empty when it is.
std::string table_refusal(const LinnetDeviceModule* table) {
  if (!table) return "gives no table";
  if (table->abi_version != LINNET_DEVICE_ABI)
    return cat("interface: expected version ", LINNET_DEVICE_ABI, ", got ", table->abi_version,
               ": module and program are not of the same build");
  if (table->table_bytes < sizeof(LinnetDeviceModule))
    return cat("interface: expected a table of ", sizeof(LinnetDeviceModule), " bytes, got ", table->table_bytes);
  return {};
}

std::string status_text(const LinnetDeviceModule& table, int32_t status) {
  const char* text = table.error_text(status);
  return text ? text : cat("status ", status);
}

// Why there is no driver that the module could work with; empty when there is one.
std::string driver_refusal(const LinnetDeviceModule& table, Devices& devices) {
  int32_t version = 0;
  if (const int32_t status = table.driver_version(&version)) return cat("driver: ", status_text(table, status));
  devices.driver_version = version;
  if (version == 0) return cat("no driver: expected ", table.driver_wanted);
  if (version / 1000 < table.runtime_version / 1000)  // within a major version any driver does
    return cat("driver too old: expected ", table.driver_wanted, ", got one for ", version_text(version));
  return {};
}

DeviceInfo describe(const LinnetDeviceModule& table, int index) {
  LinnetDeviceInfo raw = {};
  DeviceInfo info{.index = index};
  if (const int32_t status = table.device_info(index, &raw)) {
    info.refusal = cat("device ", index, ": ", status_text(table, status));
    return info;
  }
  info.name = raw.name, info.bus_id = raw.bus_id;
  info.compute_major = raw.compute_major, info.compute_minor = raw.compute_minor;
  info.n_multiprocessors = raw.n_multiprocessors;
  info.memory_bytes = raw.memory_bytes, info.l2_bytes = raw.l2_bytes, info.shared_bytes = raw.shared_bytes;
  if (!raw.usable)
    info.refusal = cat(info.name, " has compute capability ", info.compute_major, ".", info.compute_minor,
                       ", expected ", table.devices_wanted);
  return info;
}

}  // namespace

DeviceModule open_device_module(const fs::path& path) {
  DeviceModule module{.path = path};
  const auto refuse = [&](const std::string& why) {
    module.refusal = cat("device module ", path.string(), ": ", why);
    return module;
  };
  std::error_code none;
  if (!fs::exists(path, none)) return refuse("no such file");
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = dlerror();
    return refuse(cat("cannot be opened: ", why ? why : "dlopen gives no reason"));
  }
  const auto function = reinterpret_cast<LinnetDeviceModuleFunction>(
      dlsym(library, LINNET_DEVICE_MODULE_SYMBOL));  // POSIX allows the cast
  if (!function) return refuse("expected a device module, but it has no " LINNET_DEVICE_MODULE_SYMBOL);
  const LinnetDeviceModule* table = function();
  if (const std::string why = table_refusal(table); !why.empty()) return refuse(why);
  module.table = table;
  return module;
}

DeviceModule find_device_module(const fs::path& program_folder) {
  if (const char* named = std::getenv("LINNET_CUDA_MODULE"); named && *named) return open_device_module(named);
  const fs::path places[] = {program_folder / kFileName,
                             (program_folder / "../lib/linnet" / kFileName).lexically_normal()};
  std::error_code none;
  for (const fs::path& place : places)
    if (fs::exists(place, none)) return open_device_module(place);
  return {.refusal = cat("no device module: neither ", places[0].string(), " nor ", places[1].string(),
                         " is there; a build with nvcc makes it")};
}

Devices look_for_devices(DeviceModule module) {
  Devices devices{.module = std::move(module)};
  devices.refusal = devices.module.refusal;
  if (!devices.module.table) return devices;
  const LinnetDeviceModule& table = *devices.module.table;
  devices.refusal = driver_refusal(table, devices);
  if (!devices.refusal.empty()) return devices;

  int32_t count = 0;
  if (const int32_t status = table.device_count(&count)) {
    devices.refusal = cat("devices: ", status_text(table, status));
    return devices;
  }
  for (int i = 0; i < count; ++i) devices.found.push_back(describe(table, i));
  if (std::any_of(devices.found.begin(), devices.found.end(), [](const DeviceInfo& d) { return d.refusal.empty(); }))
    return devices;
  devices.refusal = count == 0 ? "no device: the driver lists none" : "";
  for (const DeviceInfo& d : devices.found) devices.refusal += cat(devices.refusal.empty() ? "" : "; ", d.refusal);
  return devices;
}

// folder/version begins "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build ...", and each
// folder/gpus/BUS/information holds "Model: \t\t NVIDIA H200".
KernelDriver kernel_driver(const fs::path& folder) {
  KernelDriver driver;
  std::ifstream about(folder / "version");
  for (std::string word; driver.version.empty() && about >> word;)
    if (word.find_first_not_of("0123456789.") == word.npos && word.find('.') != word.npos) driver.version = word;
  std::error_code none;
  for (const fs::directory_entry& gpu : fs::directory_iterator(folder / "gpus", none)) {
    std::ifstream information(gpu.path() / "information");
    for (std::string line; std::getline(information, line);)
      if (line.starts_with("Model:"))
        driver.gpus.push_back(line.substr(std::min(line.find_first_not_of(" \t", 6), line.size())));
  }
  std::sort(driver.gpus.begin(), driver.gpus.end());
  return driver;
}

const Devices& devices() {
  static const Devices found = [] {
    std::error_code none;
    return look_for_devices(find_device_module(fs::read_symlink("/proc/self/exe", none).parent_path()));
  }();
  return found;
}

Device::Device(int index, const Devices& devices) : devices_(&devices), index_(index) {
  if (!devices.refusal.empty()) throw Unsupported(devices.refusal);
  const auto count = static_cast<int>(devices.found.size());
  if (index < 0 || index >= count) throw Unsupported(cat("device: expected 0 to ", count - 1, ", got ", index));
  if (!info().refusal.empty()) throw Unsupported(cat("device ", index, ": ", info().refusal));
}

uint64_t Device::free_bytes() const {
  uint64_t free = 0, total = 0;
  check(make_current(), "device");
  check(table().memory_info(&free, &total), "device memory");
  return free;
}

void Device::check(int32_t status, const std::string& place) const {
  if (status == 0) return;
  const std::string text = cat(place, ": ", info().name, " (device ", index_, "): ", status_text(table(), status));
  if (table().is_out_of_memory(status)) throw OutOfMemory(text);
  throw DeviceError(text);
}

const LinnetDeviceOperator& Device::find_operator(const char* name, size_t args_bytes) const {
  for (int i = 0; i < table().n_operators; ++i) {
    const LinnetDeviceOperator& op = table().operators[i];
    if (std::string_view(op.name) != name) continue;
    if (op.args_bytes != args_bytes)
      throw Unsupported(cat(name, ": arguments: expected ", args_bytes, " bytes, the device module has ", op.args_bytes,
                            ": module and program are not of the same build"));
    return op;
  }
  throw Unsupported(cat(name, ": the device module ", devices_->module.path.string(), " has no operator of that name"));
}

}  // namespace linnet
