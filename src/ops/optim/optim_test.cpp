// Optimizer steps against their definitions, what Newton-Schulz does to singular values, and bits across threads.
#include "ops/optim/optim.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/errors.h"
#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

struct AdamWCase {
  OwnedTensor w, m, v, grad;
  AdamWArgs args;
  explicit AdamWCase(int64_t n, int64_t step = 3) {
    w = OwnedTensor::normal({n}, 1), m = OwnedTensor::normal({n}, 2), grad = OwnedTensor::normal({n}, 4, 3);
    v = OwnedTensor::uniform({n}, 3, 0, 2);
    args = {.w = w, .m = m, .v = v, .grad = grad, .lr = 0.01f, .weight_decay = 0.1f, .grad_scale = 0.5f, .step = step};
  }
};

TEST(AdamW, MatchesReference) {
  for (int64_t n : {0, 1, 3, 15, 16, 17, 1000, 16383, 16384, 16385, 50'000})
    for (int64_t step : {1, 2, 1000}) {
      const AdamWCase got(n, step), want(n, step);
      test::run_plan(plan_adamw(got.args), got.args);
      adamw_ref(want.args);
      // About ten roundings; sums of terms of either sign no larger than the inputs, which stay below 20.
      const test::Tolerance close{.abs = 20 * 4 * 0x1p-24, .rel = 10 * 0x1p-24, .why = "f32 arithmetic"};
      EXPECT_TRUE(test::close(got.w, want.w, close)) << n << " step " << step;
      EXPECT_TRUE(test::close(got.m, want.m, close)) << n << " step " << step;
      EXPECT_TRUE(test::close(got.v, want.v, close)) << n << " step " << step;
    }
}

// From zero moments the first step is lr times the sign of the gradient, whatever its size.
TEST(AdamW, FirstStepIsTheSignOfTheGradient) {
  const OwnedTensor w = OwnedTensor::zeros({2, 3}), m = OwnedTensor::zeros({2, 3}), v = OwnedTensor::zeros({2, 3});
  const OwnedTensor grad = OwnedTensor::filled(
      {2, 3}, [](int64_t i) { return (i % 2 ? 1 : -1) * std::pow(10, static_cast<double>(i) - 3); });
  const AdamWArgs args{.w = w, .m = m, .v = v, .grad = grad, .lr = 0.5f, .step = 1};
  test::run_plan(plan_adamw(args), args);
  for (int64_t i = 0; i < 6; ++i) EXPECT_NEAR(w.f32()[i], i % 2 ? -0.5 : 0.5, 1e-5) << i;
  const OwnedTensor still = OwnedTensor::normal({4}, 1), before = OwnedTensor::normal({4}, 1);
  const OwnedTensor zero = OwnedTensor::zeros({4}), zero_m = OwnedTensor::zeros({4}), zero_v = OwnedTensor::zeros({4});
  const AdamWArgs nothing{.w = still, .m = zero_m, .v = zero_v, .grad = zero, .lr = 0.5f, .step = 1};
  test::run_plan(plan_adamw(nothing), nothing);
  EXPECT_TRUE(test::same_bits(still, before)) << "a zero gradient moves nothing";
}

TEST(AdamW, BitsDoNotDependOnThreads) {
  const AdamWCase one(100'003), two(100'003);
  test::run_plan(plan_adamw(one.args), one.args, 1);
  test::run_plan(plan_adamw(two.args), two.args, 2);
  EXPECT_TRUE(test::same_bits(one.w, two.w));
  EXPECT_TRUE(test::same_bits(one.v, two.v));
}

TEST(AdamW, RefusesWhatDoesNotFit) {
  AdamWCase c(5);
  const OwnedTensor four = OwnedTensor::zeros({4});
  AdamWArgs bad = c.args;
  bad.grad = four;
  EXPECT_THROW(plan_adamw(bad), InvalidArgument);
  bad = c.args, bad.step = 0;
  EXPECT_THROW(plan_adamw(bad), InvalidArgument);
  bad = c.args, bad.v = {};
  EXPECT_THROW(plan_adamw(bad), InvalidArgument);
}

struct Extent {
  int64_t N, K;
};
constexpr Extent kExtents[] = {{1, 1},   {1, 40},  {40, 1},  {2, 3},     {8, 8},     {9, 30},   {30, 9},
                               {16, 16}, {33, 64}, {70, 31}, {128, 200}, {200, 128}, {5, 1200}, {600, 40}};

struct MuonCase {
  std::vector<OwnedTensor> w, m, grad;
  std::vector<MuonMatrix> matrices;
  void add(const Extent& e, uint64_t seed) {
    w.push_back(OwnedTensor::normal({e.N, e.K}, seed));
    m.push_back(OwnedTensor::normal({e.N, e.K}, seed + 1, 0.1));
    grad.push_back(OwnedTensor::normal({e.N, e.K}, seed + 2));
    matrices.push_back({.w = w.back(), .m = m.back(), .grad = grad.back()});
  }
  static MuonCase all() {
    MuonCase c;
    uint64_t seed = 0;
    for (const Extent& e : kExtents) c.add(e, seed += 10);
    return c;
  }
  MuonArgs args(DType compute) const {
    MuonArgs a{.matrices = matrices, .lr = 0.1f, .weight_decay = 0.05f, .grad_scale = 0.5f};
    a.compute = compute;
    return a;
  }
};

std::vector<const Variant<MuonArgs>*> runnable() {
  std::vector<const Variant<MuonArgs>*> variants;
  for (const Variant<MuonArgs>& v : muon_variants())
    if (v.needs <= active_isa()) variants.push_back(&v);
  return variants;
}

void run(const Variant<MuonArgs>& v, const MuonArgs& a, int n_threads = 2) {
  test::run_plan(Plan<MuonArgs>(v), a, n_threads);
}

// A step of O(1) entries: O has a norm of at most 1.3 sqrt(rows), the update 0.2 sqrt(max) lr times it. The iteration's slope at
// zero is 3.4445^5 = 485, its errors per step a few roundings of numbers of size 1.
TEST(Muon, MatchesReferenceInF32) {
  for (bool nesterov : {true, false})
    for (const Variant<MuonArgs>* v : runnable()) {
      const MuonCase got = MuonCase::all(), want = MuonCase::all();
      MuonArgs a = got.args(DType::f32), b = want.args(DType::f32);
      a.nesterov = b.nesterov = nesterov;
      run(*v, a);
      muon_ref(b);
      for (size_t i = 0; i < got.w.size(); ++i) {
        SCOPED_TRACE(cat(v->name, " ", text_of(got.w[i])));
        const double update = 0.1 * 0.2 * std::sqrt(static_cast<double>(std::max(kExtents[i].N, kExtents[i].K)));
        EXPECT_TRUE(
            test::close(got.m[i], want.m[i], {.abs = 4 * 0x1p-24, .rel = 4 * 0x1p-24, .why = "f32 arithmetic"}));
        EXPECT_TRUE(
            test::close(got.w[i], want.w[i],
                        {.abs = update * 485 * 4 * 0x1p-24, .rel = 4 * 0x1p-24, .why = "485 times a few roundings"}));
      }
    }
}

// O of one matrix: the update of w = 0 without decay, divided by its factor.
std::vector<double> orthogonalised(const Variant<MuonArgs>* variant, const OwnedTensor& grad, DType compute) {
  const int64_t N = grad.view()[0], K = grad.view()[1];
  const OwnedTensor w = OwnedTensor::zeros({N, K}), m = OwnedTensor::zeros({N, K});
  const MuonMatrix matrix{.w = w, .m = m, .grad = grad};
  MuonArgs a{.matrices = {&matrix, 1}, .lr = 1};
  a.compute = compute;
  if (variant) run(*variant, a);
  else muon_ref(a);
  const double factor = -0.2 * std::sqrt(static_cast<double>(std::max(N, K)));
  std::vector<double> o;
  for (int64_t i = 0; i < N * K; ++i) o.push_back(w.f32()[i] / factor);
  return o;
}

// Singular values of a [N, K] matrix: square roots of the eigenvalues of its smaller Gram matrix, by Jacobi rotations.
std::vector<double> singular_values(const std::vector<double>& a, int64_t N, int64_t K) {
  const int64_t R = std::min(N, K), S = std::max(N, K);
  const auto at = [&](int64_t r, int64_t s) { return a[static_cast<size_t>(N <= K ? r * K + s : s * K + r)]; };
  std::vector<double> g(static_cast<size_t>(R * R));
  const auto gram = [&](int64_t i, int64_t j) -> double& { return g[static_cast<size_t>(i * R + j)]; };
  for (int64_t i = 0; i < R; ++i)
    for (int64_t j = 0; j < R; ++j)
      for (int64_t s = 0; s < S; ++s) gram(i, j) += at(i, s) * at(j, s);
  for (int sweep = 0; sweep < 12; ++sweep)
    for (int64_t p = 0; p < R; ++p)
      for (int64_t q = p + 1; q < R; ++q) {
        if (gram(p, q) == 0) continue;
        const double theta = (gram(q, q) - gram(p, p)) / (2 * gram(p, q));
        const double t = (theta >= 0 ? 1 : -1) / (std::abs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int64_t k = 0; k < R; ++k) {
          const double x = gram(k, p), y = gram(k, q);
          gram(k, p) = c * x - s * y, gram(k, q) = s * x + c * y;
        }
        for (int64_t k = 0; k < R; ++k) {
          const double x = gram(p, k), y = gram(q, k);
          gram(p, k) = c * x - s * y, gram(q, k) = s * x + c * y;
        }
      }
  std::vector<double> values;
  for (int64_t i = 0; i < R; ++i) values.push_back(std::sqrt(std::max(0.0, gram(i, i))));
  return values;
}

// Divided by the norm, the singular values of these gradients are above 0.02; from there on the iteration ends between 0.6
// and 1.3.
TEST(Muon, SingularValuesEndNearOne) {
  for (const Extent& e : {Extent{1, 30}, {24, 40}, {40, 24}, {64, 128}, {9, 50}, {50, 12}}) {
    const OwnedTensor grad = OwnedTensor::normal({e.N, e.K}, 77, 1e-3);
    std::vector<const Variant<MuonArgs>*> variants = runnable();
    variants.push_back(nullptr);  // the definition
    for (const Variant<MuonArgs>* v : variants)
      for (DType compute : {DType::bf16, DType::f32}) {
        for (double value : singular_values(orthogonalised(v, grad, compute), e.N, e.K)) {
          EXPECT_GE(value, 0.6) << (v ? v->name : "ref") << " " << e.N << " x " << e.K;
          EXPECT_LE(value, 1.3) << (v ? v->name : "ref") << " " << e.N << " x " << e.K;
        }
      }
  }
}

// Rounding to bf16 moves the matrix by less than a tenth of its norm.
TEST(Muon, Bf16StaysNearTheReference) {
  for (const Extent& e : {Extent{24, 40}, {40, 24}, {128, 384}, {384, 128}, {5, 100}}) {
    const OwnedTensor grad = OwnedTensor::normal({e.N, e.K}, 5);
    const std::vector<double> want = orthogonalised(nullptr, grad, DType::bf16);
    for (const Variant<MuonArgs>* v : runnable()) {
      const std::vector<double> got = orthogonalised(v, grad, DType::bf16);
      double difference = 0, norm = 0;
      for (size_t i = 0; i < want.size(); ++i)
        difference += (got[i] - want[i]) * (got[i] - want[i]), norm += want[i] * want[i];
      EXPECT_LE(std::sqrt(difference / norm), 0.1) << v->name << " " << e.N << " x " << e.K;
    }
  }
}

TEST(Muon, ZeroGradientOnlyDecays) {
  for (const Variant<MuonArgs>* v : runnable())
    for (DType compute : {DType::bf16, DType::f32}) {
      const OwnedTensor w = OwnedTensor::normal({20, 12}, 1), before = OwnedTensor::normal({20, 12}, 1);
      const OwnedTensor m = OwnedTensor::zeros({20, 12}), grad = OwnedTensor::zeros({20, 12});
      const MuonMatrix matrix{.w = w, .m = m, .grad = grad};
      MuonArgs a{.matrices = {&matrix, 1}, .lr = 0.5f, .weight_decay = 0.5f};
      a.compute = compute;
      run(*v, a);
      for (int64_t i = 0; i < 240; ++i) EXPECT_FLOAT_EQ(w.f32()[i], 0.75f * before.f32()[i]) << v->name;
    }
}

// Gradients of any size have the same direction; one that is not finite is not hidden.
TEST(Muon, ExtremeGradients) {
  for (const Variant<MuonArgs>* v : runnable()) {
    const std::vector<double> plain =
        orthogonalised(v, OwnedTensor::filled({4, 6}, [](int64_t i) { return i * i % 7 - 3.0; }), DType::f32);
    for (double size : {0x1p-100, 0x1p60}) {
      const OwnedTensor grad =
          OwnedTensor::filled({4, 6}, [&](int64_t i) { return size * static_cast<double>(i * i % 7 - 3); });
      const std::vector<double> scaled = orthogonalised(v, grad, DType::f32);
      for (size_t i = 0; i < plain.size(); ++i) EXPECT_NEAR(scaled[i], plain[i], 1e-3) << v->name << " " << size;
    }
    OwnedTensor grad = OwnedTensor::normal({4, 6}, 1);
    grad.f32()[7] = std::numeric_limits<float>::infinity();
    EXPECT_TRUE(std::isnan(orthogonalised(v, grad, DType::f32)[7])) << v->name;
  }
}

// More matrices than a round holds, and the same bits alone, together, and with any number of threads.
TEST(Muon, BitsDoNotDependOnThreadsOrCompany) {
  for (const Variant<MuonArgs>* v : runnable())
    for (DType compute : {DType::bf16, DType::f32}) {
      const auto make = [] {
        MuonCase c = MuonCase::all();
        // More than fits into one round (some 20 MiB), at little arithmetic: each takes 2 to 3 MiB of scratch.
        for (uint64_t i = 0; i < 16; ++i) c.add({16, 8000}, 1000 + i);
        return c;
      };
      const MuonCase one = make(), two = make(), alone = make();
      run(*v, one.args(compute), 1);
      run(*v, two.args(compute), 2);
      for (const MuonMatrix& matrix : alone.matrices) {
        MuonArgs a = alone.args(compute);
        a.matrices = {&matrix, 1};
        run(*v, a);
      }
      for (size_t i = 0; i < one.w.size(); ++i) {
        EXPECT_TRUE(test::same_bits(two.w[i], one.w[i])) << v->name << " " << i;
        EXPECT_TRUE(test::same_bits(alone.w[i], one.w[i])) << v->name << " " << i;
        EXPECT_TRUE(test::same_bits(alone.m[i], one.m[i])) << v->name << " " << i;
      }
    }
}

TEST(Muon, NothingToDo) {
  const MuonArgs none{.matrices = {}, .lr = 1};
  test::run_plan(plan_muon(none), none);
  const OwnedTensor empty = OwnedTensor::zeros({0, 5});
  const MuonMatrix matrix{.w = empty, .m = empty, .grad = empty};
  const MuonArgs a{.matrices = {&matrix, 1}, .lr = 1};
  test::run_plan(plan_muon(a), a);
}

TEST(Muon, RefusesWhatDoesNotFit) {
  const OwnedTensor w = OwnedTensor::zeros({4, 5}), other = OwnedTensor::zeros({5, 4});
  const auto message = [](const MuonMatrix& m) -> std::string {
    try {
      plan_muon({.matrices = {&m, 1}, .lr = 1});
      return "accepted";
    } catch (const InvalidArgument& e) { return e.what(); }
  };
  EXPECT_EQ(message({.w = w, .m = w, .grad = w}), "accepted");
  EXPECT_EQ(message({.w = w, .m = w, .grad = other}),
            "muon: matrix 0: grad: expected the shape of w, [4, 5] f32, got [5, 4] f32");
  EXPECT_EQ(message({.w = w, .m = {}, .grad = w}),
            "muon: matrix 0: m: expected the shape of w, [4, 5] f32, got absent");
}

TEST(SumsOfSquares, MatchReferenceAndThreads) {
  Workspace nothing;
  ThreadPool one(1), two(2);
  const OwnedTensor small = OwnedTensor::normal({5, 3}, 4);
  for (int64_t n : {0, 1, 7, 31, 32, 33, 16384, 16385, 5'000'000}) {
    const OwnedTensor x = OwnedTensor::normal({n}, 3);
    const auto sums = [&](ThreadPool& pool) {
      const ConstTensor tensors[] = {x, small, x};  // that of a tensor does not depend on the others
      const std::vector<double> all = sums_of_squares(tensors, Exec{pool, nothing});
      const ConstTensor alone[] = {x};
      EXPECT_EQ(all.size(), 3u);
      EXPECT_TRUE(all[0] == all[2] || std::isnan(all[0]));
      EXPECT_TRUE(all[0] == sums_of_squares(alone, Exec{pool, nothing})[0] || std::isnan(all[0]));
      return all;
    };
    const auto reference = [](const OwnedTensor& t) {
      double want = 0;
      for (int64_t i = 0; i < t.view().elements(); ++i) want += static_cast<double>(t.f32()[i]) * t.f32()[i];
      return want;
    };
    const std::vector<double> got = sums(two);
    EXPECT_NEAR(got[0], reference(x), 1e-12 * reference(x)) << n;
    EXPECT_NEAR(got[1], reference(small), 1e-12 * reference(small)) << n;
    EXPECT_EQ(got, sums(one)) << n;
    if (n == 0) continue;
    x.f32()[n / 2] = 1e30f;
    EXPECT_NEAR(sums(two)[0], 1e60, 1e54);
    x.f32()[n / 2] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(sums(two)[0]));
    EXPECT_EQ(sums(two)[1], got[1]);
  }
}

}  // namespace
}  // namespace linnet::ops
