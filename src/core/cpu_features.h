// Which instruction sets this process may use: what the CPU and the kernel grant, capped by LINNET_ISA.
#pragma once

#include <cstdint>
#include <string>

namespace linnet {

// Ordered: each level includes the ones before it. baseline = what the compiler assumes for any x86-64 (or another CPU).
enum class Isa : uint8_t { baseline, avx2, avx512, avx512_bf16, amx };

constexpr const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::baseline: return "baseline";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512_bf16: return "avx512_bf16";
    case Isa::amx: return "amx";
  }
  return "?";
}

// avx2 means AVX2 + FMA + F16C; avx512 means F, BW, CD, DQ, VL; amx means tile + bf16, with the tile-data permission obtained.
Isa detected_isa() noexcept;

// The level in force: detected_isa(), or the lower level named by the environment variable LINNET_ISA.
// Throws InvalidArgument on the first call when LINNET_ISA is no level name or lies above what the machine has.
// Also restricts Highway's targets to the same level.
Isa active_isa();

// Sets the level for tests and benchmarks that compare variants in one process; not thread safe.
void override_isa(Isa isa);

std::string cpu_model_name();  // "AMD EPYC", from /proc/cpuinfo; "unknown CPU" elsewhere

}  // namespace linnet
