#include "cli/doctor.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/default_model.h"
#include "cli/doctor_checks.h"
#include "cli/output.h"
#include "core/arena.h"
#include "core/cpu_features.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

#ifdef __clang__
constexpr const char* kCompiler = __VERSION__;  // "Debian Clang 14.0.6"
#else
constexpr const char* kCompiler = "g++ " __VERSION__;
#endif

struct Findings {
  int n_threads = 0;
  CpuCheck cpu;
  std::optional<fs::path> model;
  bool model_is_there = false;
  Devices devices;
  KernelDriver driver;
  bool gpu_works = false;
};

Findings examine() {
  Findings f;
  ThreadPool pool;
  f.n_threads = pool.size();
  f.cpu = check_cpu(pool);
  f.model = default_model();
  std::error_code none;
  f.model_is_there = f.model && fs::exists(*f.model / "config.json", none);
  f.driver = kernel_driver();
  f.devices = devices();
  for (DeviceInfo& gpu : f.devices.found) {
    if (!gpu.refusal.empty()) continue;
    gpu.refusal = check_device(Device(gpu.index));
    f.gpu_works |= gpu.refusal.empty();
  }
  return f;
}

// Why no GPU is used, in one clause; empty when one can be.
std::string gpu_refusal(const Findings& f) {
  if (f.gpu_works) return {};
  if (!f.devices.module.table && !f.driver.version.empty())
    return cat("an NVIDIA GPU is here, but ", f.devices.refusal);
  if (!f.devices.refusal.empty()) return f.devices.refusal;
  std::string reasons;
  for (const DeviceInfo& gpu : f.devices.found) reasons += cat(reasons.empty() ? "" : "; ", gpu.refusal);
  return reasons;
}

std::string verdict(const Findings& f) {
  const std::string cpu = f.cpu.failure.empty() ? "works on the CPU" : cat("does NOT work on the CPU: ", f.cpu.failure);
  return cat(cpu, f.gpu_works ? "; CUDA kernels work, no command uses them yet" : cat("; no GPU: ", gpu_refusal(f)));
}

std::string version_text(int version) {
  return version == 0 ? "none" : cat("CUDA ", version / 1000, ".", version % 1000 / 10);
}

// "name            value"
std::string line(const std::string& name, const std::string& value) {
  char text[32];
  std::snprintf(text, sizeof text, "%-16s", name.c_str());
  return cat(text, value, "\n");
}

std::string cpu_lines(const Findings& f) {
  std::string text = line("linnet", cat(LINNET_VERSION ", ", kCompiler, ", " LINNET_BUILD_TYPE));
  text += line("CPU", cat(cpu_model_name(), ", ", std::thread::hardware_concurrency(), " hardware threads"));
  text +=
      line("instructions", cat(name_of(active_isa()),
                               active_isa() == detected_isa() ? "" : cat(", lowered from ", name_of(detected_isa()))));
  text += line("threads", cat(f.n_threads, ", one per physical core"));
  text += line("memory", cat(bytes_text(physical_memory_bytes()), ", ", bytes_text(available_memory_bytes()), " free"));
  char error[32];
  std::snprintf(error, sizeof error, "%.1e", f.cpu.error);
  text += line("check", cat("linear_attn, variant ", f.cpu.variant, ": error ", error, " against the definition"));
  text += line("default model", !f.model           ? "none: name one with --model or LINNET_MODEL"
                                : f.model_is_there ? f.model->string()
                                                   : cat(f.model->string(), ": no config.json there"));
  return text;
}

std::string gpu_lines(const Findings& f) {
  const DeviceModule& module = f.devices.module;
  std::string text =
      line("CUDA module", module.table ? cat(module.path.string(), ", interface ", module.table->abi_version,
                                             ", built with ", version_text(module.table->runtime_version))
                                       : module.refusal);
  text += line("driver", cat(f.driver.version.empty() ? "none" : cat("NVIDIA ", f.driver.version),
                             f.devices.driver_version ? cat(", ", version_text(f.devices.driver_version)) : ""));
  for (const DeviceInfo& gpu : f.devices.found)
    text +=
        line(cat("GPU ", gpu.index), cat(gpu.name, ", compute capability ", gpu.compute_major, ".", gpu.compute_minor,
                                         ", ", gpu.n_multiprocessors, " SMs, ", bytes_text(gpu.memory_bytes), ": ",
                                         gpu.refusal.empty() ? "works" : gpu.refusal));
  if (f.devices.found.empty())
    for (const std::string& name : f.driver.gpus) text += line("GPU", name);
  return text;
}

Json to_json(const Findings& f) {
  const DeviceModule& module = f.devices.module;
  Json json = {{"version", LINNET_VERSION},
               {"compiler", kCompiler},
               {"build_type", LINNET_BUILD_TYPE},
               {"cuda_built", LINNET_CUDA_IS_BUILT != 0},
               {"cpu", cpu_model_name()},
               {"hardware_threads", std::thread::hardware_concurrency()},
               {"threads", f.n_threads},
               {"isa", name_of(active_isa())},
               {"isa_detected", name_of(detected_isa())},
               {"memory_bytes", physical_memory_bytes()},
               {"memory_available_bytes", available_memory_bytes()},
               {"check", {{"operator", "linear_attn"}, {"variant", f.cpu.variant}, {"error", f.cpu.error}}},
               {"default_model", f.model ? Json(f.model->string()) : Json()},
               {"default_model_found", f.model_is_there}};
  json["module"] = module.table ? Json{{"path", module.path.string()},
                                       {"kind", module.table->kind},
                                       {"interface", module.table->abi_version},
                                       {"runtime_version", module.table->runtime_version}}
                                : Json();
  json["driver"] = {{"version", f.driver.version}, {"cuda_version", f.devices.driver_version}};
  json["gpus"] = Json::array();
  for (const DeviceInfo& gpu : f.devices.found)
    json["gpus"].push_back({{"index", gpu.index},
                            {"name", gpu.name},
                            {"bus_id", gpu.bus_id},
                            {"compute_capability", cat(gpu.compute_major, ".", gpu.compute_minor)},
                            {"multiprocessors", gpu.n_multiprocessors},
                            {"memory_bytes", gpu.memory_bytes},
                            {"works", gpu.refusal.empty()},
                            {"refusal", gpu.refusal}});
  json["cpu_works"] = f.cpu.failure.empty();
  json["gpu_works"] = f.gpu_works;
  json["gpu_refusal"] = gpu_refusal(f);
  json["verdict"] = verdict(f);
  return json;
}

}  // namespace

int run_doctor(const DoctorArgs& args) {
  const Findings findings = examine();
  if (args.json) print(to_json(findings).dump(2) + "\n");
  else print(cpu_lines(findings) + gpu_lines(findings) + line("verdict", verdict(findings)));
  return findings.cpu.failure.empty() ? 0 : 70;
}

}  // namespace linnet::cli
