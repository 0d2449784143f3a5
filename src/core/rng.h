// Counter-based random numbers: value i of stream s of seed k is a pure function of (k, s, i), so results do not depend on
// the thread count or the order of evaluation. Mixing function: SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace linnet {

constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

class Rng {
 public:
  explicit Rng(uint64_t seed, uint64_t stream = 0) : key_(mix64(seed ^ mix64(stream))) {}

  uint64_t bits(uint64_t i) const { return mix64(key_ ^ mix64(i)); }
  double uniform(uint64_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1p-53; }  // [0, 1)
  double normal(uint64_t i) const {                                                          // Box-Muller
    const double u = uniform(2 * i), v = uniform(2 * i + 1);
    return std::sqrt(-2 * std::log1p(-u)) * std::cos(2 * std::numbers::pi * v);
  }

  // The same, in sequence.
  uint64_t bits() { return bits(next_++); }
  double uniform() { return uniform(next_++); }
  double normal() { return normal(next_++); }

  uint64_t position() const { return next_; }
  void seek(uint64_t position) { next_ = position; }

 private:
  uint64_t key_;
  uint64_t next_ = 0;
};

}  // namespace linnet
