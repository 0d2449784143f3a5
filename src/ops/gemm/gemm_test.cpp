// Every variant against the definition: extents around every block size, all dtypes and flags, mixed batches,
// non-finite values.
#include "ops/gemm/gemm.h"

#include <algorithm>
#include <bit>

#include "ops/gemm/gemm_cases.h"

namespace linnet::ops::gemm_test {
namespace {

constexpr int64_t kAllM[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100};
constexpr int64_t kAllN[] = {1, 2, 15, 16, 17, 31, 48, 100};
constexpr int64_t kAllK[] = {1, 2, 15, 31, 32, 33, 64, 100, 1000};
constexpr DType kDtypes[] = {DType::f32, DType::bf16, DType::f16};

double squared_norm(const ConstTensor& t, int64_t at, int64_t step, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i, at += step) {
    const double v = t.dtype == DType::f32    ? t.as<float>()[at]
                     : t.dtype == DType::bf16 ? to_f32(t.as<bf16>()[at])
                                              : to_f32(t.as<f16>()[at]);
    sum += v * v;
  }
  return sum;
}

// y(m, n) / (|x_m| |w_n| + 1), so that differences are in units of the size of the sum's terms.
OwnedTensor in_units(const ConstTensor& y, const GemmProblem& p) {
  const int64_t M = p.y[0], N = p.y[1], K = p.x[p.x_is_in_out ? 0 : 1], stride = p.w.row_stride;
  std::vector<double> w_norm;
  for (int64_t n = 0; n < N; ++n)
    w_norm.push_back(std::sqrt(squared_norm(p.w, p.w_is_in_out ? n : n * stride, p.w_is_in_out ? stride : 1, K)));
  OwnedTensor units(DType::f32, {M, N});
  for (int64_t m = 0; m < M; ++m) {
    const double x_norm = std::sqrt(p.x_is_in_out ? squared_norm(p.x, m, p.x.row_stride, K)
                                                  : squared_norm(p.x, (p.rows ? p.rows[m] : m) * p.x.row_stride, 1, K));
    for (int64_t n = 0; n < N; ++n) {
      const double unit = x_norm * w_norm[static_cast<size_t>(n)] + 1;
      units.f32()[m * N + n] = static_cast<float>(y.row<float>(m)[n] / (std::isfinite(unit) ? unit : 1));
    }
  }
  return units;
}

// A sum of K products of independent signs has partial sums of about sqrt(k) and takes a rounding of 2^-24 of each: the
// error is about 2^-24 K / sqrt(2), and |x| |w| is about K. So 2^-24 / sqrt(2) in units is one standard deviation; 8 *
// 2^-24 leaves room for eleven, and for the few roundings of a short sum.
constexpr test::Tolerance kAccumulation{
    .abs = 8 * 0x1p-24, .row_rel = 0, .why = "8 roundings of f32 in units of |x| |w|"};

// Rounding x to bf16 moves each of its values by at most 2^-8 of itself; |sum of products| <= |x| |w| by
// Cauchy-Schwarz.
constexpr test::Tolerance kRoundedX{.abs = 0x1p-8 + 8 * 0x1p-24, .why = "x rounded to bf16: 2^-8 |x| |w|"};

void expect_equal(const std::vector<GemmProblem>& got, const std::vector<GemmProblem>& want, size_t i,
                  const test::Tolerance& tolerance) {
  const GemmProblem& p = got[i];
  if (p.y[0] == 0) return;
  ASSERT_TRUE(test::close(in_units(p.y, p), in_units(want[i].y, p), tolerance))
      << "problem " << i << ": M=" << p.y[0] << " N=" << p.y[1] << " K=" << p.x[p.x_is_in_out ? 0 : 1] << " w "
      << name_of(p.w.dtype) << (p.rows ? " gather" : "") << (p.accumulate ? " accumulate" : "")
      << (p.exact ? " exact" : "") << (p.w_is_in_out ? " in_out" : "") << (p.x_is_in_out ? " x_in_out" : "");
  for (int64_t m = 0; m < p.y[0]; ++m)
    for (int64_t n = p.y[1]; n < p.y.row_stride; ++n) ASSERT_EQ(p.y.row<float>(m)[n], kGap) << "wrote past row " << m;
}

void expect_variants_match(Batch& batch) {
  const auto exact = reference(batch, [](const GemmProblem&) { return false; });
  for (const Variant<GemmArgs>* v : runnable_variants()) {
    SCOPED_TRACE(v->name);
    const auto rounds = [&](const GemmProblem& p) { return rounds_x(*v, p); };
    const bool any = std::any_of(exact.begin(), exact.end(), rounds);
    const auto mirror = any ? reference(batch, rounds) : exact;
    const auto got = run(*v, batch);
    for (size_t i = 0; i < got.size(); ++i) {
      expect_equal(got, mirror, i, kAccumulation);
      if (rounds(got[i])) expect_equal(got, exact, i, kRoundedX);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Gemm, MatchesReferenceAtEveryExtent) {
  for (DType dtype : kDtypes)
    for (int64_t K : kAllK) {
      Batch batch(static_cast<uint64_t>(K));
      for (int64_t M : kAllM)
        for (int64_t N : kAllN) batch.add({M, N, K}, {.dtype = dtype}, N != kAllN[0]);
      expect_variants_match(batch);
    }
}

TEST(Gemm, MatchesReferenceWithEveryFlag) {
  const Options flags[] = {{.gather = true, .pad = 3},
                           {.gather = true, .accumulate = true, .pad = 16},
                           {.exact = true, .pad = 1},
                           {.accumulate = true, .exact = true},
                           {.x_in_out = true},
                           {.accumulate = true, .x_in_out = true, .pad = 5},
                           {.exact = true, .x_in_out = true, .pad = 1},
                           {.in_out = true},
                           {.gather = true, .accumulate = true, .in_out = true, .pad = 5}};
  for (DType dtype : kDtypes)
    for (Options o : flags) {
      o.dtype = dtype;
      Batch batch(7);
      for (int64_t K : {1, 15, 33, 100})
        for (int64_t M : {1, 2, 7, 8, 9, 17, 33, 100})
          for (int64_t N : {1, 15, 17, 100, 200}) batch.add({M, N, K}, o, N == 100);
      expect_variants_match(batch);
    }
}

// More than one k block of every kernel, more than one tile of rows of w and of x.
TEST(Gemm, MatchesReferenceAcrossBlocks) {
  for (DType dtype : kDtypes) {
    Batch batch(11);
    for (int64_t K : {511, 512, 513, 1031}) batch.add({19, 97, K}, {.dtype = dtype});
    batch.add({257, 3, 40}, {.dtype = dtype, .gather = true});
    batch.add({300, 193, 70}, {.dtype = dtype});
    batch.add({9, 5, 9216}, {.dtype = dtype});
    batch.add({3, 5, 9216}, {.dtype = dtype});
    batch.add({3, 1300, 40}, {.dtype = dtype, .in_out = true});
    expect_variants_match(batch);
  }
}

TEST(Gemm, MatchesReferenceInMixedBatches) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Rng rng(seed);
    Batch batch(seed * 1000);
    for (uint64_t i = 0; i < 24; ++i) {
      const auto pick = [&](uint64_t what, uint64_t n) { return static_cast<int64_t>(rng.bits(i * 16 + what) % n); };
      const Options o{.dtype = kDtypes[pick(0, 3)],
                      .gather = pick(1, 2) == 1,
                      .accumulate = pick(2, 2) == 1,
                      .exact = pick(3, 3) == 0,
                      .in_out = pick(4, 4) == 0,
                      .pad = pick(5, 4)};
      const bool again = i > 0 && pick(6, 2) == 1;  // the x of the product before
      const ConstTensor before = i > 0 ? batch.problems().back().x : ConstTensor();
      const int64_t M = again ? batch.problems().back().y[0] : pick(7, 5) == 0 ? 0 : pick(8, 70);
      batch.add({M, 1 + pick(9, 120), again ? before[1] : 1 + pick(10, 90)}, o, again);
    }
    expect_variants_match(batch);
  }
}

// Neighbours may share x and yet not what is packed of it: other rows, fewer columns.
TEST(Gemm, NeighboursOfOneInputReadTheirOwnRowsAndColumns) {
  for (bool exact : {false, true}) {
    Batch batch(19);
    const Options o{.gather = true, .exact = exact};
    batch.add({20, 30, 40}, o);
    GemmProblem& other_rows = batch.add({20, 30, 40}, o, true);
    std::vector<int32_t> reversed(other_rows.rows, other_rows.rows + 20);
    std::reverse(reversed.begin(), reversed.end());
    other_rows.rows = batch.own(OwnedTensor::ints(reversed)).as<int32_t>();
    GemmProblem& fewer_columns = batch.add({20, 30, 33}, o, true);
    fewer_columns.x.shape[1] = 33;
    expect_variants_match(batch);
  }
}

// What is not finite stays where it is: in the rows of a bad x and the columns of a bad w, nowhere else.
TEST(Gemm, CarriesNaNAndInfinity) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
  for (DType dtype : kDtypes)
    for (bool in_out : {false, true})
      for (int64_t M : {4, 40}) {
        Batch batch(3);
        const int64_t N = 21, K = 35;
        const GemmProblem p = batch.add({M, N, K}, {.dtype = dtype, .in_out = in_out, .pad = 1});
        const auto x = [&](int64_t m, int64_t k) -> float& { return const_cast<float*>(p.x.row<float>(m))[k]; };
        // The NaNs with the largest and the smallest payload: rounding to bf16 as a number would end in zero and
        // infinity.
        x(0, 9) = std::bit_cast<float>(0x7fffffffu), x(1, 0) = std::bit_cast<float>(0x7f800001u);
        x(2, K - 1) = kInf, x(3, 5) = kInf, x(3, 20) = -kInf;
        const auto set_w = [&](int64_t n, int64_t k, float v) {
          const int64_t at = in_out ? k * p.w.row_stride + n : n * p.w.row_stride + k;
          std::byte* to = const_cast<std::byte*>(p.w.data) + at * size_of(dtype);
          const bf16 b = to_bf16(v);
          const f16 h = to_f16(v);
          std::memcpy(to,
                      dtype == DType::f32    ? static_cast<void*>(&v)
                      : dtype == DType::bf16 ? (void*)&b
                                             : (void*)&h,
                      static_cast<size_t>(size_of(dtype)));
        };
        set_w(7, K - 1, kNaN), set_w(8, 2, -kInf), set_w(N - 1, 0, kInf);
        expect_variants_match(batch);
      }
}

TEST(Gemm, EmptyProblems) {
  Batch batch(1);
  batch.add({0, 5, 7}, {});
  batch.add({12, 5, 0}, {});
  batch.add({12, 5, 0}, {.accumulate = true});
  batch.add({3, 5, 0}, {});
  batch.add({3, 5, 0}, {.in_out = true});
  batch.add({12, 0, 7}, {});
  GemmProblem absent;  // an expert without tokens: no memory at all
  absent.y.rank = 2, absent.y.shape = {0, 5};
  for (const Variant<GemmArgs>* v : runnable_variants()) {
    SCOPED_TRACE(v->name);
    std::vector<GemmProblem> got = batch.fresh(), want = batch.fresh();
    gemm_ref({want});
    got.push_back(absent);
    (void)plan_gemm({got});
    test::run_plan(Plan<GemmArgs>(*v), GemmArgs{got});
    for (size_t i = 1; i < 5; ++i) EXPECT_TRUE(test::same_bits(got[i].y, want[i].y)) << i;
  }
  ThreadPool pool(2);
  Workspace nothing;
  plan_gemm({}).run({}, Exec{pool, nothing});
}

}  // namespace
}  // namespace linnet::ops::gemm_test
