#include "model/initialize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "core/rng.h"

namespace linnet::model {
namespace {

constexpr int kLevels = 1 << 16;
using Quantiles = std::array<float, kLevels>;

// z[i] = Phi^-1((i + 1/2) / kLevels), scaled to unit variance. Newton's method from the centre outwards, each root started at
// its neighbour, on Q(z) = erfc(z / sqrt 2) / 2, which is convex for z > 0: the iteration rises to the root without overshoot.
std::unique_ptr<Quantiles> make_quantiles() {
  auto table = std::make_unique<Quantiles>();
  double z = 0, squares = 0;
  std::array<double, kLevels / 2> upper;
  for (int i = 0; i < kLevels / 2; ++i) {
    const double tail = 0.5 - (i + 0.5) / kLevels;
    for (double step = 1; std::abs(step) > 1e-12 * (1 + z);) {
      const double density = std::exp(-z * z / 2) / std::sqrt(2 * std::numbers::pi);
      step = (std::erfc(z / std::numbers::sqrt2) / 2 - tail) / density;
      z += step;
    }
    upper[static_cast<size_t>(i)] = z;
    squares += 2 * z * z;
  }
  const double scale = 1 / std::sqrt(squares / kLevels);
  for (size_t i = 0; i < upper.size(); ++i) {
    (*table)[kLevels / 2 + i] = static_cast<float>(upper[i] * scale);
    (*table)[kLevels / 2 - 1 - i] = static_cast<float>(-upper[i] * scale);
  }
  return table;
}

const Quantiles& quantiles() {
  static const std::unique_ptr<Quantiles> table = make_quantiles();
  return *table;
}

// FNV-1a, 64 bits: a stream number that only the name decides.
uint64_t stream_of(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

// Four values from each 64-bit number.
void draw_normal(const Rng& rng, float stddev, int64_t first, std::span<float> out) {
  const Quantiles& z = quantiles();
  uint64_t at = static_cast<uint64_t>(first), bits = rng.bits(at / 4) >> 16 * (at % 4);
  for (float& value : out) {
    value = stddev * z[bits & 0xffff];
    bits = ++at % 4 == 0 ? rng.bits(at / 4) : bits >> 16;
  }
}

// softplus(draw) = dt with dt log-uniform in [1e-3, 1e-1], at least 1e-4: draw = log(exp(dt) - 1) = dt + log(-expm1(-dt)).
float dt_bias(double u) {
  const double low = std::log(1e-3), high = std::log(1e-1);
  const double dt = std::max(std::exp(low + u * (high - low)), 1e-4);
  return static_cast<float>(dt + std::log(-std::expm1(-dt)));
}

template <class Value>
void fill_uniform(const Rng& rng, int64_t first, std::span<float> out, Value value) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = value(rng.uniform(static_cast<uint64_t>(first) + i));
}

}  // namespace

void draw_values(const TensorRow& row, float stddev, uint64_t seed, int64_t first, std::span<float> out) {
  const Rng rng(seed, stream_of(row.name));
  switch (row.init) {
    case Init::normal: draw_normal(rng, stddev, first, out); break;
    case Init::ones: std::fill(out.begin(), out.end(), 1.f); break;
    case Init::zeros: std::fill(out.begin(), out.end(), 0.f); break;
    case Init::conv: {
      const double bound = 1 / std::sqrt(static_cast<double>(row.shape.back()));
      fill_uniform(rng, first, out, [&](double u) { return static_cast<float>((2 * u - 1) * bound); });
      break;
    }
    case Init::a_log:
      fill_uniform(rng, first, out, [](double u) { return static_cast<float>(std::log(1 + 15 * u)); });
      break;
    case Init::dt_bias: fill_uniform(rng, first, out, dt_bias); break;
  }
}

}  // namespace linnet::model
