// Gradient of the embedding. Threads share the columns, not the tokens: each goes through all ids, so a row's terms are added in
// the order of tokens however many threads there are, and rows of equal ids do not meet.
#include "ops/embed/embed_bwd.h"

#include <algorithm>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::ops {
namespace {

constexpr int64_t kGrainElements = 16384;  // below these, another thread costs more than it saves
constexpr int64_t kLineElements = 16;      // floats of a cache line: a thread's columns are whole lines of a row

// Columns of one piece: equal shares of the threads. An element's bits do not depend on it.
int64_t columns_of_a_piece(int64_t n_tokens, int64_t width, int n_threads) {
  const int64_t share = (width + n_threads - 1) / n_threads,
                least = kGrainElements / std::max<int64_t>(1, n_tokens) + 1;
  return (std::max(share, least) + kLineElements - 1) / kLineElements * kLineElements;
}

void expect_arguments(const EmbedBwdArgs& a) {
  expect_tensor("embed_bwd", "ids", a.ids, DType::i32, {-1});
  expect_tensor("embed_bwd", "dtable", a.dtable, DType::f32, {-1, -1});
  expect_tensor("embed_bwd", "dy", a.dy, DType::f32, {a.ids[0], a.dtable[1]});
  for (int64_t n = 0; n < a.ids[0]; ++n) {
    const int32_t id = a.ids.as<int32_t>()[n];
    if (id < 0 || id >= a.dtable[0])
      throw InvalidArgument(cat("embed_bwd: ids[", n, "]: expected 0 to ", a.dtable[0] - 1, ", got ", id));
  }
}

}  // namespace

void embed_bwd(const EmbedBwdArgs& a, const Exec& exec) {
  expect_arguments(a);
  const int64_t N = a.ids[0], C = a.dtable[1];
  exec.pool.parallel_for(C, columns_of_a_piece(N, C, exec.pool.size()), [&](int64_t begin, int64_t end, int) {
    for (int64_t n = 0; n < N; ++n) {
      const float* dy = a.dy.row<float>(n);
      float* row = a.dtable.row<float>(a.ids.as<int32_t>()[n]);
      for (int64_t c = begin; c < end; ++c) row[c] += dy[c];
    }
  });
}

}  // namespace linnet::ops
