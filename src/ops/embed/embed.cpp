// Embedding: a row copy for f32, a widening copy for the 16-bit types.
#include "ops/embed/embed.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::ops {
namespace {

constexpr int64_t kGrainElements = 16384;  // below these, another thread costs more than it saves

template <class T>
void widen_rows(const EmbedArgs& a, const Exec& exec) {
  const int64_t C = a.table[1];
  exec.pool.parallel_for(a.ids[0], kGrainElements / std::max<int64_t>(C, 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const T* from = a.table.row<T>(a.ids.as<int32_t>()[n]);
      float* y = a.y.row<float>(n);
      for (int64_t c = 0; c < C; ++c) y[c] = to_f32(from[c]);
    }
  });
}

}  // namespace

void embed(const EmbedArgs& a, const Exec& exec) {
  expect_tensor("embed", "ids", a.ids, DType::i32, {-1});
  const DType type = a.table.dtype;
  if (type != DType::f32 && type != DType::bf16 && type != DType::f16)
    throw InvalidArgument(cat("embed: table: expected f32, bf16 or f16, got ", text_of(a.table)));
  expect_tensor("embed", "table", a.table, type, {-1, -1});
  expect_tensor("embed", "y", a.y, DType::f32, {a.ids[0], a.table[1]});
  for (int64_t n = 0; n < a.ids[0]; ++n) {
    const int32_t id = a.ids.as<int32_t>()[n];
    if (id < 0 || id >= a.table[0])
      throw InvalidArgument(cat("embed: ids[", n, "]: expected 0 to ", a.table[0] - 1, ", got ", id));
  }
  switch (type) {
    case DType::bf16: return widen_rows<bf16>(a, exec);
    case DType::f16: return widen_rows<f16>(a, exec);
    default: return widen_rows<float>(a, exec);
  }
}

}  // namespace linnet::ops
