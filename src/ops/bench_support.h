// What the benchmarks of operators share: times, their median, inputs.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <vector>

#include "core/rng.h"

namespace linnet::ops {

struct Seconds {
  double wall, cpu;  // cpu: of all threads together
};

inline double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class F>
Seconds seconds_of(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  const double cpu = cpu_seconds();
  f();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), cpu_seconds() - cpu};
}

inline double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

// Between -1 and 1.
inline std::vector<float> random_values(int64_t n, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(n));
  const Rng rng(seed);
  for (int64_t i = 0; i < n; ++i)
    values[static_cast<size_t>(i)] = static_cast<float>(2 * rng.uniform(static_cast<uint64_t>(i)) - 1);
  return values;
}

}  // namespace linnet::ops
