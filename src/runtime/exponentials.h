// Exponentials of a row of logits: what sampling and scores spend their time in. Plain loops that every compiler turns into vectors;
// each element's bits are the same on every instruction set.
#pragma once

#include <span>

namespace linnet::runtime {

// The largest; -inf of none. NaN if any is NaN.
float largest_of(std::span<const float> x);

// out[i] = exp((x[i] - max) / divisor), within 2 ulp of that of its argument in f32, for max >= every x[i], divisor > 0; 0 for arguments up to -87.
void exp_below(std::span<const float> x, float max, float divisor, std::span<float> out);

// In double, in an order that depends on the size alone.
double sum_of(std::span<const float> x);

}  // namespace linnet::runtime
