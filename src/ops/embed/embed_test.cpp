// Embedding: exact rows for every table type, strided output, ids outside the table refused by name.
#include "ops/embed/embed.h"

#include <limits>

#include "core/errors.h"
#include "core/text.h"
#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

void run(const EmbedArgs& args, int n_threads = 2) {
  ThreadPool pool(n_threads);
  Workspace workspace;
  embed(args, Exec{pool, workspace});
}

template <class T>
void expect_rows(const std::vector<int32_t>& ids, int64_t V, int64_t C) {
  SCOPED_TRACE(cat(name_of(DTypeOf<T>::value), " N=", ids.size(), " C=", C));
  const int64_t N = static_cast<int64_t>(ids.size());
  const OwnedTensor table = OwnedTensor::normal({V, C}, 1, 1, 0, DTypeOf<T>::value), id_tensor = OwnedTensor::ints(ids);
  const OwnedTensor wide = OwnedTensor::filled({N, C + 3}, [](int64_t) { return 7; });
  Tensor y = wide.view();
  y.shape[1] = C;
  run({.ids = id_tensor, .table = table, .y = y});
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t c = 0; c < C; ++c)
      EXPECT_EQ(y.row<float>(n)[c], to_f32(table.view().row<T>(ids[static_cast<size_t>(n)])[c])) << n << ", " << c;
    for (int64_t c = C; c < C + 3; ++c) EXPECT_EQ(y.row<float>(n)[c], 7) << "beside the view: " << n << ", " << c;
  }
}

TEST(Embed, RowsOfEveryType) {
  std::vector<int32_t> many;  // several pieces for the threads
  for (int32_t i = 0; i < 700; ++i) many.push_back(i * i % 5);
  for (int64_t C : {1, 17, 64}) {
    for (const auto& ids : {std::vector<int32_t>{}, {0}, {4, 0, 4, 3, 1}, many}) {
      expect_rows<float>(ids, 5, C);
      expect_rows<bf16>(ids, 5, C);
      expect_rows<f16>(ids, 5, C);
    }
  }
}

TEST(Embed, RefusesAnIdOutsideTheTable) {
  const OwnedTensor table = OwnedTensor::zeros({5, 2}), y = OwnedTensor::zeros({3, 2});
  for (const auto& [bad, message] : {std::pair{5, "embed: ids[1]: expected 0 to 4, got 5"},
                                     std::pair{-1, "embed: ids[1]: expected 0 to 4, got -1"}}) {
    const OwnedTensor ids = OwnedTensor::ints({4, bad, 0});
    try {
      run({.ids = ids, .table = table, .y = y});
      FAIL() << "accepted id " << bad;
    } catch (const InvalidArgument& e) { EXPECT_STREQ(e.what(), message); }
  }
  const OwnedTensor ids = OwnedTensor::ints({0, 1, 2}), whole = OwnedTensor::zeros({5, 2}, DType::i32);
  EXPECT_THROW(run({.ids = ids, .table = whole, .y = y}), InvalidArgument);
  EXPECT_THROW(run({.ids = ids, .table = table, .y = table}), InvalidArgument);
}

}  // namespace
}  // namespace linnet::ops
