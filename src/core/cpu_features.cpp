#include "core/cpu_features.h"

#include <cstdlib>
#include <fstream>
#include <optional>
#include <string_view>

#include <hwy/targets.h>

#include "core/errors.h"
#include "core/text.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace linnet {
namespace {

#if defined(__x86_64__)
// Linux grants AMX tile data per process, on request (arch_prctl(2): ARCH_REQ_XCOMP_PERM, feature XTILEDATA).
bool request_tile_data() {
  constexpr int kReqXcompPerm = 0x1023, kXtileData = 18;
  return syscall(SYS_arch_prctl, kReqXcompPerm, kXtileData) == 0;
}

// Extensions that clang 14's __builtin_cpu_supports has no names for; Intel SDM volume 2A, CPUID leaves 1 and 7.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}
bool has_amx_tile_and_bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1) && (d >> 22 & 1);
}

Isa detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c()) return Isa::baseline;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return Isa::avx2;
  if (!__builtin_cpu_supports("avx512bf16")) return Isa::avx512;
  if (!has_amx_tile_and_bf16() || !request_tile_data()) return Isa::avx512_bf16;
  return Isa::amx;
}
#else
Isa detect() { return Isa::baseline; }
#endif

// Highway picks its own best target; hold it to ours, so that LINNET_ISA means the same everywhere.
void restrict_highway(Isa isa) {
#if defined(__x86_64__)
  int64_t targets = HWY_STATIC_TARGET;
  if (isa >= Isa::avx2) targets |= HWY_AVX2;
  if (isa >= Isa::avx512) targets |= HWY_AVX3;
  hwy::SetSupportedTargetsForTest(targets);
  hwy::GetChosenTarget().Update(targets);
#else
  (void)isa;
#endif
}

Isa requested() {
  const char* text = std::getenv("LINNET_ISA");
  const Isa have = detected_isa();
  if (!text || !*text) return have;
  constexpr Isa kAll[] = {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx};
  for (Isa isa : kAll) {
    if (std::string_view(text) != name_of(isa)) continue;
    if (isa > have)
      throw InvalidArgument(cat("LINNET_ISA: ", text, " asked for, but this machine offers ", name_of(have)));
    return isa;
  }
  throw InvalidArgument(
      cat("LINNET_ISA: expected baseline, avx2, avx512, avx512_bf16 or amx, got ", printable(text, 40)));
}

std::optional<Isa> g_active;

}  // namespace

Isa detected_isa() noexcept {
  static const Isa isa = detect();
  return isa;
}

void override_isa(Isa isa) {
  g_active = isa;
  restrict_highway(isa);
}

Isa active_isa() {
  static const bool once = [] {
    if (!g_active) override_isa(requested());
    return true;
  }();
  (void)once;
  return *g_active;
}

std::string cpu_model_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

}  // namespace linnet
