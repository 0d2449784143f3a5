#include "support/compare.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "core/text.h"

namespace linnet::test {
namespace {

double value_at(const ConstTensor& t, int64_t row, int64_t column) {
  switch (t.dtype) {
    case DType::f32: return t.row<float>(row)[column];
    case DType::bf16: return to_f32(t.row<bf16>(row)[column]);
    case DType::f16: return to_f32(t.row<f16>(row)[column]);
    case DType::i32: return t.row<int32_t>(row)[column];
    case DType::i64: return static_cast<double>(t.row<int64_t>(row)[column]);
    case DType::u8: return t.row<uint8_t>(row)[column];
  }
  return 0;
}

// Coordinates of element `column` of first index `row`, as "[3, 0, 17]".
std::string place(const ConstTensor& t, int64_t row, int64_t column) {
  std::vector<int64_t> at(static_cast<size_t>(t.rank));
  for (int i = t.rank - 1; i > 0; --i) at[static_cast<size_t>(i)] = column % t[i], column /= t[i];
  at[0] = row;
  return shape_text(at);
}

struct RowSum {
  double difference = 0, reference = 0;
};

}  // namespace

testing::AssertionResult close(const ConstTensor& got, const ConstTensor& want, const Tolerance& tolerance) {
  if (got.rank != want.rank || !std::equal(got.dims().begin(), got.dims().end(), want.dims().begin()))
    return testing::AssertionFailure() << "got " << text_of(got) << ", want " << text_of(want);
  if (!got) return testing::AssertionFailure() << "both absent: nothing was compared";
  const int64_t width = got.row_elements(), inner = got.rank > 1 ? got[got.rank - 1] : width;
  double worst = 0, worst_row = 0;
  std::string worst_text, worst_row_text;
  for (int64_t row = 0; row < got[0]; ++row) {
    RowSum sum;
    for (int64_t column = 0; column < width; ++column) {
      const double g = value_at(got, row, column), w = value_at(want, row, column);
      if (std::isnan(g) != std::isnan(w) || std::isinf(g) != std::isinf(w) || (std::isinf(g) && g != w))
        return testing::AssertionFailure() << place(got, row, column) << ": got " << g << ", want " << w;
      if (!std::isfinite(g)) continue;
      const double error = std::abs(g - w), bound = tolerance.abs + tolerance.rel * std::abs(w);
      const double excess = error == 0 ? 0 : error / bound;  // bound 0: infinite
      if (excess > worst) {
        worst = excess;
        worst_text = cat(place(got, row, column), ": got ", g, ", want ", w, ", error ", error, " allowed ", bound);
      }
      sum.difference += error * error, sum.reference += w * w;
      if ((column + 1) % inner == 0) {
        const double row_bound = tolerance.row_rel * std::sqrt(sum.reference) + tolerance.abs;
        const double row_excess =
            tolerance.row_rel > 0 && sum.difference > 0 ? std::sqrt(sum.difference) / row_bound : 0;
        if (row_excess > worst_row) {
          worst_row = row_excess;
          worst_row_text = cat("row of ", place(got, row, column), ": error norm ", std::sqrt(sum.difference), " of ",
                               std::sqrt(sum.reference), ", allowed ", row_bound);
        }
        sum = {};
      }
    }
  }
  if (worst <= 1 && worst_row <= 1) return testing::AssertionSuccess();
  return testing::AssertionFailure() << (worst > 1 ? worst_text + "; " : "")
                                     << (worst_row > 1 ? worst_row_text + "; " : "") << "tolerance: " << tolerance.why;
}

testing::AssertionResult same_bits(const ConstTensor& got, const ConstTensor& want) {
  if (got.dtype != want.dtype || got.rank != want.rank ||
      !std::equal(got.dims().begin(), got.dims().end(), want.dims().begin()))
    return testing::AssertionFailure() << "got " << text_of(got) << ", want " << text_of(want);
  if (!got) return testing::AssertionFailure() << "both absent: nothing was compared";
  const int64_t size = size_of(got.dtype), width = got.row_elements();
  for (int64_t row = 0; row < got[0]; ++row)
    for (int64_t column = 0; column < width; ++column) {
      const std::byte* g = got.data + (row * got.row_stride + column) * size;
      const std::byte* w = want.data + (row * want.row_stride + column) * size;
      if (std::memcmp(g, w, static_cast<size_t>(size)) != 0)
        return testing::AssertionFailure() << place(got, row, column) << ": got " << value_at(got, row, column)
                                           << ", want " << value_at(want, row, column) << " (bits differ)";
    }
  return testing::AssertionSuccess();
}

}  // namespace linnet::test
