// Gradient of the embedding: the adjoint of the forward, sums in the order of tokens for any thread count, bad ids refused.
#include "ops/embed/embed_bwd.h"

#include <cmath>

#include "core/errors.h"
#include "core/text.h"
#include "ops/embed/embed.h"
#include "support/compare.h"
#include "support/gradient.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

void run(const EmbedBwdArgs& args, int n_threads) {
  ThreadPool pool(n_threads);
  Workspace workspace;
  embed_bwd(args, Exec{pool, workspace});
}

OwnedTensor random_ids(int64_t N, int64_t V) {  // the last row of the table is never met
  const Rng rng(7);
  std::vector<int32_t> ids;
  for (int64_t n = 0; n < N; ++n)
    ids.push_back(static_cast<int32_t>(rng.bits(static_cast<uint64_t>(n)) % static_cast<uint64_t>(V - 1)));
  return OwnedTensor::ints(ids);
}

TEST(EmbedBwd, IsTheSlopeOfTheForward) {
  const int64_t N = 50, V = 12, C = 5;
  const OwnedTensor ids = random_ids(N, V), table = OwnedTensor::normal({V, C}, 1), dy = OwnedTensor::normal({N, C}, 2);
  const OwnedTensor dtable = OwnedTensor::zeros({V, C}), y = OwnedTensor::zeros({N, C});
  run({.ids = ids, .dy = dy, .dtable = dtable}, 2);
  ThreadPool pool(2);
  Workspace workspace;
  embed({.ids = ids, .table = table, .y = y}, Exec{pool, workspace});
  double through_forward = 0, through_backward = 0, terms = 0;  // <dy, embed(table)> = <embed_bwd(dy), table>
  for (int64_t i = 0; i < N * C; ++i) {
    const double term = double{dy.f32()[i]} * y.f32()[i];
    through_forward += term, terms += std::abs(term);
  }
  for (int64_t i = 0; i < V * C; ++i) through_backward += double{dtable.f32()[i]} * table.f32()[i];
  EXPECT_NEAR(through_backward, through_forward, 10 * 0x1p-24 * terms) << "about 5 tokens meet in an element";
}

TEST(EmbedBwd, AddsTokensInOrderForAnyThreadCount) {
  for (int64_t C : {1, 15, 16, 17, 64, 300, 1000})
    for (int64_t N : {0, 1, 7, 500}) {
      const int64_t V = 9;
      const OwnedTensor ids = random_ids(N, V), before = OwnedTensor::normal({V, C}, 3);
      const OwnedTensor wide = OwnedTensor::normal({N, C + 3}, 4, 100), want = before;
      const Tensor dy = wide.view().columns(2, C + 2);
      for (int64_t n = 0; n < N; ++n)
        for (int64_t c = 0; c < C; ++c) want.f32()[ids.i32()[n] * C + c] += dy.row<float>(n)[c];
      for (int n_threads : {1, 2, 3}) {
        SCOPED_TRACE(cat("N=", N, " C=", C, " threads=", n_threads));
        const OwnedTensor got = before;
        run({.ids = ids, .dy = dy, .dtable = got}, n_threads);
        EXPECT_TRUE(test::same_bits(got, want));
        EXPECT_TRUE(test::same_bits(got.view().rows(V - 1, V), before.view().rows(V - 1, V)));
      }
    }
}

TEST(EmbedBwd, NamesWhatIsWrongAndLeavesTheTable) {
  const OwnedTensor dtable = OwnedTensor::zeros({5, 2}), dy = OwnedTensor::normal({3, 2}, 1), zeros = dtable;
  const auto message = [&](const OwnedTensor& ids, const OwnedTensor& gradient) {
    try {
      run({.ids = ids, .dy = gradient, .dtable = dtable}, 1);
    } catch (const InvalidArgument& e) { return std::string(e.what()); }
    return std::string("accepted");
  };
  EXPECT_EQ(message(OwnedTensor::ints({4, 0, 5}), dy), "embed_bwd: ids[2]: expected 0 to 4, got 5");
  EXPECT_EQ(message(OwnedTensor::ints({4, -1, 0}), dy), "embed_bwd: ids[1]: expected 0 to 4, got -1");
  EXPECT_EQ(message(OwnedTensor::ints({4, 0}), dy), "embed_bwd: dy: expected [2, 2] f32, got [3, 2] f32");
  EXPECT_TRUE(test::same_bits(dtable, zeros));
}

}  // namespace
}  // namespace linnet::ops
