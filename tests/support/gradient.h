// Gradients against central differences of a loss in double precision.
#pragma once

#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "core/tensor.h"

namespace linnet::test {

// One input of a function: where it stands, and the gradient claimed there. Both f32, equal shapes.
struct GradientClaim {
  const char* name;
  ConstTensor at, gradient;
};

// The inputs in the order of the claims, dense.
using Point = std::vector<std::vector<double>>;

std::vector<double> doubles(const ConstTensor& t);  // f32

// Random directions, over each input alone and over all at once: the claimed slope, sum gradient * direction, equals the slope of
// `loss` by the five-point difference at h = 1e-3 (truncation h^4 / 30 of the fifth derivative: inputs of about unit scale).
// Allowed: 2^-24 sum |gradient * direction|, what storing gradients as f32 may cost, and 1e-10 (1 + |loss|) for the difference.
testing::AssertionResult gradient_close(const std::vector<GradientClaim>& claims,
                                        const std::function<double(const Point&)>& loss, uint64_t seed = 1);

}  // namespace linnet::test
