// How the checks of the Hopper kernels compare and report, and what their programs have in common.
#pragma once

#include <cstring>

#include "ops/linear_attn/linear_attn_sm90_case.cuh"

namespace linnet::ops::sm90_check {

inline int failures = 0;

inline void verdict(bool ok, const std::string& what) {
  std::printf("%s %s\n", ok ? "ok  " : "FAIL", what.c_str());
  failures += !ok;
}

struct Error {
  double rms;        // ||x - ref|| / ||ref||
  double worst_row;  // largest row error over the root mean square row norm of the reference
  bool finite;
};

template <class T>
Error compare(const std::vector<T>& x, const std::vector<double>& ref, int width = kD) {
  double e2 = 0, r2 = 0, worst = 0;
  bool finite = true;
  for (size_t row = 0; row < ref.size() / width; row++) {
    double row_e2 = 0;
    for (size_t i = row * width; i < (row + 1) * width; i++) {
      const double v = static_cast<double>(static_cast<float>(x[i])), d = v - ref[i];
      finite = finite && std::isfinite(v);
      row_e2 += d * d;
      r2 += ref[i] * ref[i];
    }
    e2 += row_e2;
    worst = std::max(worst, row_e2);
  }
  if (r2 == 0) return {std::sqrt(e2), std::sqrt(worst), finite};
  return {std::sqrt(e2 / r2), std::sqrt(worst / (r2 / (ref.size() / width))), finite};
}

// FLA's own tests allow 0.005 relative RMS for o and the final state. Rounding o to bf16 costs 2^-9 / sqrt(3) = 1.1e-3 to 2.3e-3;
// the f16 operands on the way add 2^-12 a product. A single row may be worse where o nearly cancels: 0.05 of the typical row.
inline bool accept(const Error& e) { return e.finite && e.rms <= 0.005 && e.worst_row <= 0.05; }

inline std::string show(const Error& e) {
  char text[96];
  std::snprintf(text, sizeof text, "rms %.2e worst row %.2e%s", e.rms, e.worst_row, e.finite ? "" : " NOT FINITE");
  return text;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b, size_t n) {
  return std::memcmp(a.data(), b.data(), n * sizeof(T)) == 0;
}

constexpr size_t kState = static_cast<size_t>(kD) * kD;  // entries

// States [.., key, value] as [.., value, key], or back.
inline std::vector<float> transposed(const std::vector<float>& s, int D = kD) {
  std::vector<float> t(s.size());
  for (size_t at = 0; at < s.size(); at += D * D)
    for (int i = 0; i < D; i++)
      for (int j = 0; j < D; j++) t[at + j * D + i] = s[at + i * D + j];
  return t;
}

inline std::vector<bf16> rounded(const std::vector<float>& s) {
  std::vector<bf16> r(s.size());
  for (size_t i = 0; i < s.size(); i++) r[i] = __float2bfloat16(s[i]);
  return r;
}

// Modes of small shapes and few repetitions: under compute-sanitizer, and on the emulated GPU (tests/emulation).
inline bool is_emulated(const std::string& mode) { return mode == "emulated"; }
inline bool is_short(const std::string& mode) { return mode == "sanitize" || is_emulated(mode); }

inline std::string mode_of(int argc, char** argv) { return argc > 1 ? argv[1] : ""; }

// A program: checks(mode), then with `bench` the benchmark. Returns its exit status.
template <class Checks>
int run_checks(int argc, char** argv, Checks checks, void (*bench)(int, char**) = nullptr) {
  cudaDeviceProp p;
  LINNET_CUDA_OK(cudaGetDeviceProperties(&p, 0));
  std::printf("%s, %d SMs\n", p.name, p.multiProcessorCount);
  checks(mode_of(argc, argv));
  LINNET_CUDA_OK(cudaDeviceSynchronize());
  std::printf("%d failures\n", failures);
  if (bench && mode_of(argc, argv) == "bench") bench(argc, argv);
  return failures ? 1 : 0;
}

}  // namespace linnet::ops::sm90_check
