// Fresh values of parameters: what a random checkpoint holds and what training starts from.
#pragma once

#include <cstdint>
#include <span>

#include "model/tensor_table.h"

namespace linnet::model {

// Values [first, first + out.size()) of a row in row-major order, drawn as row.init says. Value i is a pure function of the seed,
// the row's name and i: it depends neither on the order of the calls nor on who makes them.
// normal: `stddev` times the quantile of a uniform 16-bit number, so |value| < 4.4 stddev; variance exactly stddev^2.
void draw_values(const TensorRow& row, float stddev, uint64_t seed, int64_t first, std::span<float> out);

}  // namespace linnet::model
