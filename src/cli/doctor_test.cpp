// linnet doctor: with a device module that has no device (tests/support/fake_device.cpp), with none, and with one that is broken.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/cli_test_support.h"

namespace linnet::cli {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

// The module and what the fake pretends ("COUNT MAJOR DRIVER"), for the processes that a test starts.
struct Environment {
  Environment(const std::string& module, const std::string& fake) {
    setenv("LINNET_CUDA_MODULE", module.c_str(), 1);
    setenv("FAKE_DEVICE", fake.c_str(), 1);
  }
  ~Environment() {
    unsetenv("LINNET_CUDA_MODULE");
    unsetenv("FAKE_DEVICE");
  }
};

std::string doctor(std::vector<std::string> more = {}, const RunOptions& options = {}) {
  more.insert(more.begin(), "doctor");
  const Outcome outcome = linnet(more, options);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  return outcome.out;
}

std::string last_line(const std::string& text) {
  const size_t end = text.rfind('\n'), begin = text.rfind('\n', end - 1);
  return text.substr(begin + 1, end - begin - 1);
}

TEST(doctor, describes_the_machine) {
  const std::string text = doctor();
  for (const char* part :
       {"linnet          ", "\nCPU  ", " hardware threads\n", "\ninstructions", "\nthreads", "\nmemory",
        "\ncheck           linear_attn, variant simd", "\ndefault model", "\nCUDA module", "\ndriver"})
    EXPECT_THAT(text, HasSubstr(part));
  EXPECT_THAT(last_line(text), testing::StartsWith("verdict         works on the CPU; "));
}

TEST(doctor, json_says_the_same) {
  const json j = json::parse(doctor({"--json"}));
  EXPECT_EQ(j["cpu_works"], true);
  EXPECT_GT(j["memory_bytes"], j["memory_available_bytes"]);
  EXPECT_GE(j["hardware_threads"], j["threads"]);
  EXPECT_GE(j["threads"], 1);
  EXPECT_EQ(j["module"].is_null(), !j["cuda_built"]) << "the module that was built is found";
  EXPECT_EQ(j["check"]["operator"], "linear_attn");
  EXPECT_GT(j["check"]["error"], 0);
  EXPECT_LT(j["check"]["error"], 1e-5);
  EXPECT_THAT(last_line(doctor()), HasSubstr(j["verdict"].get<std::string>()));
}

TEST(doctor, tells_the_instruction_set_in_force) {
  const json j = json::parse(doctor({"--json"}, {.environment = "LINNET_ISA=baseline"}));
  EXPECT_EQ(j["isa"], "baseline");
  if (j["isa_detected"] != "baseline") {
    EXPECT_THAT(doctor({}, {.environment = "LINNET_ISA=baseline"}), HasSubstr("baseline, lowered from "));
  }
  expect_refusal(linnet({"doctor"}, {.environment = "LINNET_ISA=fast"}), 2, "LINNET_ISA");
}

TEST(doctor, tells_the_default_model) {
  const std::string model = tiny_checkpoint();
  EXPECT_THAT(doctor({}, {.environment = "LINNET_MODEL=" + model}), HasSubstr("\ndefault model   " + model + "\n"));
  EXPECT_THAT(doctor({}, {.environment = "LINNET_MODEL=gone"}),
              HasSubstr("\ndefault model   gone: no config.json there\n"));
  const json j = json::parse(doctor({"--json"}, {.environment = "LINNET_MODEL=gone"}));
  EXPECT_EQ(j["default_model"], "gone");
  EXPECT_EQ(j["default_model_found"], false);
}

TEST(doctor, says_why_a_module_is_of_no_use) {
  const auto verdict = [](const std::string& module) {
    const Environment environment(module, "");
    const std::string text = doctor();
    EXPECT_THAT(text, HasSubstr("\nCUDA module     device module " + module));
    return last_line(text);
  };
  const std::string start = "verdict         works on the CPU; no GPU: device module ";
  EXPECT_EQ(verdict("/gone.so"), start + "/gone.so: no such file");
  EXPECT_THAT(verdict(LINNET_FAKE_DEVICE_EMPTY), HasSubstr("but it has no linnet_device_module"));
  const formats::ScratchFolder folder;
  EXPECT_THAT(verdict(folder.write("text.so", "text")), HasSubstr("cannot be opened"));
}

TEST(doctor, says_why_a_device_is_of_no_use) {
  const auto verdict = [](const std::string& fake) {
    const Environment environment(LINNET_FAKE_DEVICE, fake);
    return last_line(doctor());
  };
  const std::string start = "verdict         works on the CPU; no GPU: ";
  EXPECT_EQ(verdict("0"), start + "no device: the driver lists none");
  EXPECT_EQ(verdict("1 8"), start + "Fake GPU has compute capability 8.0, expected 9.0 (Fake)");
  EXPECT_EQ(verdict("1 9 0"), start + "no driver: expected the fake driver for 13 or newer");
  EXPECT_THAT(verdict("1 9 12020"), HasSubstr("got one for 12.2"));
  // It takes memory and copies, but has no kernels.
  EXPECT_THAT(verdict("1 9 13000"), HasSubstr("kda_decode_sm90: the device module"));
}

TEST(doctor, lists_devices) {
  const Environment environment(LINNET_FAKE_DEVICE, "2 9 13010");
  const std::string text = doctor();
  EXPECT_THAT(text, HasSubstr("\nGPU 0           Fake GPU, compute capability 9.0, 132 SMs, 1.00 MiB: Fake GPU has"));
  EXPECT_THAT(text,
              HasSubstr("\nGPU 1           Fake GPU, compute capability 9.0, 132 SMs, 1.00 MiB: kda_decode_sm90"));
  const json j = json::parse(doctor({"--json"}));
  ASSERT_EQ(j["gpus"].size(), 2u);
  EXPECT_EQ(j["gpus"][1]["compute_capability"], "9.0");
  EXPECT_EQ(j["gpus"][1]["works"], false);
  EXPECT_EQ(j["gpu_works"], false);
  EXPECT_EQ(j["driver"]["cuda_version"], 13010);
  EXPECT_EQ(j["module"]["kind"], "fake");
  EXPECT_EQ(j["module"]["path"], LINNET_FAKE_DEVICE);
}

}  // namespace
}  // namespace linnet::cli
