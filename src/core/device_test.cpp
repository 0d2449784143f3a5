// Devices over a fake module (tests/support/fake_device.cpp): what is found and refused, streams, events, memory. With a real module
// and a device that it can use, the same work once more there.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <vector>

#include "core/device_memory.h"
#include "core/errors.h"
#include "support/fake_device.h"

namespace linnet {
namespace {

using test::FakeSettings;
using test::ScaleArgs;
using testing::AllOf;
using testing::HasSubstr;

const std::filesystem::path kFake = LINNET_FAKE_DEVICE;

template <class Function>
Function fake_symbol(const char* name) {
  void* library = dlopen(kFake.c_str(), RTLD_NOW | RTLD_LOCAL);
  return reinterpret_cast<Function>(dlsym(library, name));
}

// The fake's settings and its table, as they are at first; back to that at the end.
struct Fake {
  FakeSettings& settings = *fake_symbol<test::FakeSettingsFunction>("fake_device_settings")();
  LinnetDeviceModule& table =
      *const_cast<LinnetDeviceModule*>(fake_symbol<LinnetDeviceModuleFunction>(LINNET_DEVICE_MODULE_SYMBOL)());
  const LinnetDeviceModule original = table;
  Fake() { settings = {}; }
  ~Fake() {
    EXPECT_EQ(settings.n_live, 0) << "not released";
    settings = {};
    table = original;
  }
  static Devices look() { return look_for_devices(open_device_module(kFake)); }
};

// A folder that ends with the test.
struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / "linnet-device-XXXXXX";
  Folder() {
    std::string name = path.string();
    if (!mkdtemp(name.data())) throw std::runtime_error("no folder");
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
};

template <class E, class F>
std::string message(F f) {
  try {
    f();
  } catch (const E& e) { return e.what(); } catch (const std::exception& e) {
    return std::string("another exception: ") + e.what();
  }
  return "nothing thrown";
}

TEST(device_module, is_opened) {
  Fake fake;
  const DeviceModule module = open_device_module(kFake);
  EXPECT_EQ(module.refusal, "");
  ASSERT_NE(module.table, nullptr);
  EXPECT_STREQ(module.table->kind, "fake");
}

TEST(device_module, refusals_name_the_file_and_the_reason) {
  const Folder folder;
  const auto refusal = [](const std::filesystem::path& path) {
    const DeviceModule module = open_device_module(path);
    EXPECT_EQ(module.table, nullptr);
    EXPECT_THAT(module.refusal, HasSubstr(path.string()));
    return module.refusal;
  };
  EXPECT_THAT(refusal(folder.path / "gone.so"), HasSubstr("no such file"));
  std::ofstream(folder.path / "text.so") << "not a library";
  EXPECT_THAT(refusal(folder.path / "text.so"), HasSubstr("cannot be opened: "));
  EXPECT_THAT(refusal(folder.path), HasSubstr("cannot be opened: "));
  EXPECT_THAT(refusal(LINNET_FAKE_DEVICE_EMPTY),
              HasSubstr("expected a device module, but it has no linnet_device_module"));
}

TEST(device_module, of_another_build_is_refused) {
  Fake fake;
  fake.table.abi_version = 7;
  EXPECT_THAT(open_device_module(kFake).refusal, HasSubstr("interface: expected version 1, got 7"));
  fake.table.abi_version = LINNET_DEVICE_ABI;
  fake.table.table_bytes = 64;
  EXPECT_THAT(open_device_module(kFake).refusal, AllOf(HasSubstr("expected a table of"), HasSubstr("got 64")));
}

TEST(device_module, is_looked_for_in_three_places) {
  const Folder folder;
  const auto program = folder.path / "bin";
  std::filesystem::create_directories(folder.path / "lib/linnet");
  std::filesystem::create_directories(program);
  unsetenv("LINNET_CUDA_MODULE");
  EXPECT_THAT(find_device_module(program).refusal,
              AllOf(HasSubstr((program / "liblinnet_cuda.so").string()),
                    HasSubstr((folder.path / "lib/linnet/liblinnet_cuda.so").string())));

  std::filesystem::copy(kFake, folder.path / "lib/linnet/liblinnet_cuda.so");
  EXPECT_EQ(find_device_module(program).path, folder.path / "lib/linnet/liblinnet_cuda.so");
  EXPECT_EQ(find_device_module(program).refusal, "");
  std::filesystem::copy(kFake, program / "liblinnet_cuda.so");
  EXPECT_EQ(find_device_module(program).path, program / "liblinnet_cuda.so");
  setenv("LINNET_CUDA_MODULE", kFake.c_str(), 1);
  EXPECT_EQ(find_device_module(program).path, kFake);
  setenv("LINNET_CUDA_MODULE", "gone.so", 1);
  EXPECT_EQ(find_device_module(program).refusal, "device module gone.so: no such file");
  unsetenv("LINNET_CUDA_MODULE");
}

TEST(devices, are_described) {
  Fake fake;
  fake.settings.count = 2;
  const Devices devices = Fake::look();
  EXPECT_EQ(devices.refusal, "");
  EXPECT_EQ(devices.driver_version, 13010);
  ASSERT_EQ(devices.found.size(), 2u);
  const DeviceInfo& info = devices.found[1];
  EXPECT_EQ(info.index, 1);
  EXPECT_EQ(info.name, "Fake GPU");
  EXPECT_EQ(info.bus_id, "0000:00:00.0");
  EXPECT_EQ(info.n_multiprocessors, 132);
  EXPECT_EQ(info.memory_bytes, 1u << 20);
  EXPECT_EQ(info.refusal, "");
  EXPECT_EQ(Device(1, devices).info().index, 1);
  EXPECT_THAT(message<Unsupported>([&] { Device(0, devices); }), HasSubstr("device 0: Fake GPU has compute"));
  EXPECT_EQ(message<Unsupported>([&] { Device(2, devices); }), "device: expected 0 to 1, got 2");
  EXPECT_EQ(message<Unsupported>([&] { Device(-1, devices); }), "device: expected 0 to 1, got -1");
}

TEST(devices, say_why_there_is_none) {
  Fake fake;
  FakeSettings& s = fake.settings;
  const auto refusal = [&] {
    const Devices devices = Fake::look();
    EXPECT_EQ(message<Unsupported>([&] { Device(0, devices); }), devices.refusal);
    return devices.refusal;
  };
  s.driver = 0;
  EXPECT_EQ(refusal(), "no driver: expected the fake driver for 13 or newer");
  s.driver = 12040;
  EXPECT_EQ(refusal(), "driver too old: expected the fake driver for 13 or newer, got one for 12.4");
  s.driver = 13000;
  s.count_status = test::kFakeBroken;
  EXPECT_EQ(refusal(), "devices: fakeErrorBroken: broken");
  s.count_status = 0, s.count = 0;
  EXPECT_EQ(refusal(), "no device: the driver lists none");
  s.count = 1, s.major = 8;
  EXPECT_EQ(refusal(), "Fake GPU has compute capability 8.0, expected 9.0 (Fake)");
  EXPECT_EQ(look_for_devices({.refusal = "no module"}).refusal, "no module");
}

TEST(devices, kernel_driver_is_read_without_libraries) {
  const Folder folder;
  EXPECT_EQ(kernel_driver(folder.path / "gone").version, "");
  std::ofstream(folder.path / "version")
      << "NVRM version: NVIDIA UNIX Open Kernel Module for 64 bits  580.159.04  Release "
         "Build  (root@host)  Mon Jan 1\nGCC version:  gcc version 12.2.0\n";
  EXPECT_THAT(kernel_driver(folder.path).gpus, testing::IsEmpty());
  for (const char* bus : {"0000:1b:00.0", "0000:2c:00.0", "0000:3d:00.0"})
    std::filesystem::create_directories(folder.path / "gpus" / bus);
  std::ofstream(folder.path / "gpus/0000:1b:00.0/information") << "Model: \t\t NVIDIA H200\nIRQ:   \t\t 42\n";
  std::ofstream(folder.path / "gpus/0000:2c:00.0/information") << "IRQ: 42\nModel:\n";
  EXPECT_EQ(kernel_driver(folder.path).version, "580.159.04");
  EXPECT_THAT(kernel_driver(folder.path).gpus, testing::ElementsAre("", "NVIDIA H200"));
}

TEST(device_operator, is_found_by_name_and_size_of_its_arguments) {
  Fake fake;
  const Devices devices = Fake::look();
  const Device device(0, devices);
  EXPECT_EQ(DeviceOperator<ScaleArgs>(device, "scale").workspace_bytes({nullptr, 5, 1}), 5u);
  EXPECT_THAT(message<Unsupported>([&] { DeviceOperator<ScaleArgs>(device, "scal"); }),
              AllOf(HasSubstr("scal: the device module " + kFake.string()), HasSubstr("no operator of that name")));
  EXPECT_THAT(message<Unsupported>([&] { DeviceOperator<int>(device, "scale"); }),
              HasSubstr("scale: arguments: expected 4 bytes, the device module has 24"));
}

// What a stream does, on any module: copies, fills, events, and an operator where there is one.
void copy_there_and_back(const Device& device) {
  std::vector<float> in(1000), out(1000, -1);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  const DeviceBuffer memory(device, 4000);
  Stream stream(device);
  stream.copy(out.data(), memory.data(), 4000);
  stream.synchronize();
  EXPECT_EQ(out, std::vector<float>(1000, 0.f)) << "new memory is zero";

  const Event event(device);
  EXPECT_TRUE(event.done()) << "not recorded yet";
  Stream other(device);
  stream.copy(memory.data(), in.data(), 4000);
  stream.fill(memory.data(), 0, 8);
  stream.record(event);
  other.wait(event);
  other.copy(out.data(), memory.data(), 4000);
  other.synchronize();
  EXPECT_TRUE(event.done());
  in[0] = in[1] = 0;
  EXPECT_EQ(out, in);
}

TEST(stream, works_in_order_and_waits_for_events) {
  Fake fake;
  const Devices devices = Fake::look();
  copy_there_and_back(Device(0, devices));
}

TEST(stream, works_on_a_real_device) {
  if (!devices().refusal.empty()) GTEST_SKIP() << devices().refusal;
  for (const DeviceInfo& info : devices().found)
    if (info.refusal.empty()) copy_there_and_back(Device(info.index));
}

TEST(stream, returns_at_once) {
  Fake fake;
  const Devices devices = Fake::look();
  const Device device(0, devices);
  float x[2] = {1, 2};
  Stream stream(device);
  const DeviceOperator<ScaleArgs> scale(device, "scale");
  const Event event(device), end(device);
  stream.run(scale, {x, 2, 3});
  stream.record(event);
  EXPECT_EQ(x[0], 1);
  EXPECT_FALSE(event.done());
  EXPECT_THAT(message<DeviceError>([&] { milliseconds_between(device, event, end); }), HasSubstr("fakeErrorNotDone"));
  stream.run(scale, {x, 2, 10});
  event.synchronize();
  EXPECT_EQ(x[1], 6);
  stream.synchronize();
  EXPECT_EQ(x[1], 60);
  EXPECT_EQ(milliseconds_between(device, event, end), 1);
}

TEST(stream, throws_the_first_failure_when_it_is_waited_for) {
  Fake fake;
  const Devices devices = Fake::look();
  const Device device(0, devices);
  float x[1] = {1};
  Stream stream(device);
  const DeviceOperator<ScaleArgs> scale(device, "scale");
  stream.run(scale, {x, 1, 2});
  stream.run(scale, {x, -1, 2});
  fake.settings.copy_status = test::kFakeOutOfMemory;
  stream.copy(x, x, 4);
  stream.run(scale, {x, 1, 2});  // dropped
  EXPECT_EQ(message<DeviceError>([&] { stream.synchronize(); }), "scale: Fake GPU (device 0): fakeErrorBroken: broken");
  EXPECT_EQ(fake.settings.n_scaled, 1);
  EXPECT_EQ(x[0], 2) << "what came before the failure is done";
  stream.run(scale, {x, 1, 2});
  stream.synchronize();  // nothing is left of it
  EXPECT_EQ(x[0], 4);
  stream.copy(x, x, 4);
  EXPECT_THAT(message<OutOfMemory>([&] { stream.synchronize(); }), HasSubstr("copy: Fake GPU"));
}

TEST(stream, waits_at_its_end) {
  Fake fake;
  const Devices devices = Fake::look();
  const Device device(0, devices);
  float x[1] = {1};
  {
    Stream stream(device);
    stream.run(DeviceOperator<ScaleArgs>(device, "scale"), {x, 1, 2});
    const Stream moved = std::move(stream);
    EXPECT_EQ(x[0], 1);
  }
  EXPECT_EQ(x[0], 2);
}

TEST(stream, works_with_its_own_device) {
  Fake fake;
  fake.settings.count = 2;
  const Devices devices = Fake::look();
  const Device device(1, devices);
  float x[1] = {1};
  Stream stream(device);
  fake.settings.device = 0;  // somebody else's
  stream.run(DeviceOperator<ScaleArgs>(device, "scale"), {x, 1, 2});
  EXPECT_EQ(fake.settings.device, 1);
  fake.settings.device = 0;
  DeviceBuffer memory(device, 1);
  EXPECT_EQ(fake.settings.device, 1);
  fake.settings.device = 0;
  memory = {};
  EXPECT_EQ(fake.settings.device, 1);
}

TEST(device_memory, is_owned_and_ends) {
  Fake fake;
  const Devices devices = Fake::look();
  const Device device(0, devices);
  EXPECT_EQ(device.free_bytes(), 1u << 20);
  {
    const DeviceBuffer memory(device, 1000), none(device, 0);
    const PinnedBuffer pinned(device, 24);
    EXPECT_EQ(memory.size(), 1000u);
    EXPECT_EQ(none.data(), nullptr);
    EXPECT_EQ(std::to_integer<int>(memory.data()[999]), 0);
    EXPECT_EQ(device.free_bytes(), (1u << 20) - 1024);
  }
  EXPECT_EQ(device.free_bytes(), 1u << 20);
  EXPECT_EQ(message<OutOfMemory>([&] { DeviceBuffer(device, (1 << 20) + 1); }),
            "device memory of 1.00 MiB: Fake GPU (device 0): fakeErrorMemory: out of memory");
  EXPECT_THAT(message<OutOfMemory>([&] { PinnedBuffer(device, 2 << 20); }),
              HasSubstr("page-locked memory of 2.00 MiB"));
}

TEST(device_workspace, is_a_stack_of_aligned_pieces) {
  Fake fake;
  const Devices devices = Fake::look();
  DeviceWorkspace workspace(Device(0, devices), 900);  // rounded up
  const auto at = [](const void* p) { return reinterpret_cast<uintptr_t>(p); };
  const float* first = workspace.take<float>(1);
  EXPECT_EQ(at(first) % kDeviceAlignment, 0u);
  {
    const DeviceWorkspace::Scope scope(workspace);
    const char* second = workspace.take<char>(257);
    EXPECT_EQ(at(second), at(first) + 256);
    EXPECT_EQ(at(workspace.take<char>(0)), at(second) + 512);
    EXPECT_EQ(at(workspace.take<double>(32)), at(second) + 512);
  }
  EXPECT_EQ(at(workspace.take<char>(1)), at(first) + 256);
  EXPECT_EQ(workspace.peak(), 1024u);
  EXPECT_EQ(workspace.capacity(), 1024u);
}

TEST(device_workspace, says_when_it_is_too_small) {
  Fake fake;
  const Devices devices = Fake::look();
  DeviceWorkspace workspace(Device(0, devices), 1024);
  {
    const DeviceWorkspace::Scope scope(workspace);
    workspace.take<char>(600);
    EXPECT_EQ(message<OutOfMemory>([&] { workspace.take<char>(257); }),
              "device workspace: expected at most 256 B of its 1.00 KiB, asked for 257 B");
    EXPECT_THAT(message<OutOfMemory>([&] { workspace.take<char>(-1); }), HasSubstr("asked for"));
    EXPECT_NE(workspace.take<char>(256), nullptr) << "a refusal takes nothing";
  }
  workspace.reserve(512);
  EXPECT_EQ(workspace.capacity(), 1024u);
  workspace.reserve(1 << 20);  // fits only without the block before
  EXPECT_EQ(workspace.capacity(), 1u << 20);
  EXPECT_THAT(message<OutOfMemory>([&] { workspace.reserve(2 << 20); }), HasSubstr("device memory of 2.00 MiB"));
  EXPECT_EQ(workspace.capacity(), 0u);
}

}  // namespace
}  // namespace linnet
