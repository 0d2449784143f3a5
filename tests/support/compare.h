// The comparer of every test: says where two results differ, and cannot be fooled by one bad row, a sign or a NaN.
#pragma once

#include <gtest/gtest.h>

#include "core/tensor.h"

namespace linnet::test {

struct Tolerance {
  double abs = 0;  // |got - want| <= abs + rel * |want|, every element
  double rel = 0;
  double row_rel = 0;    // and, when > 0: ||got - want|| <= row_rel * ||want|| + abs, every row (last index)
  const char* why = "";  // where the numbers come from
};

// Equal shapes; NaN and infinities at the same places with the same sign; every element and every row within the tolerance.
// On failure names the worst element with its coordinates and the worst row.
testing::AssertionResult close(const ConstTensor& got, const ConstTensor& want, const Tolerance& tolerance);

// Bit for bit, NaNs included.
testing::AssertionResult same_bits(const ConstTensor& got, const ConstTensor& want);

}  // namespace linnet::test
