// Gradients of products: the definition against the forward's definition, every variant against the definition, and what
// the contract promises beside the numbers.
#include "ops/gemm/gemm_bwd.h"

#include <algorithm>

#include "core/errors.h"
#include "ops/gemm/gemm_cases.h"

namespace linnet::ops::gemm_test {
namespace {

struct BwdOptions {
  DType w = DType::bf16;
  DType compute = DType::bf16;
  bool gather = false, accumulate_dx = false;
  int64_t pad = 0;
  bool dx = true, dw = true;
};

// Gradient problems that own their memory, with NaN in the gaps of inputs and kGap in those of outputs.
class BwdBatch {
 public:
  explicit BwdBatch(uint64_t seed) : seed_(seed) {}

  GemmBwdProblem& add(const Shape& s, const BwdOptions& o, bool same_x = false) {
    GemmBwdProblem p{.accumulate_dx = o.accumulate_dx, .compute = o.compute};
    if (same_x) {
      p.x = problems_.back().x, p.rows = problems_.back().rows;
    } else {
      const int64_t rows = o.gather ? s.M + 3 : s.M;
      p.x = input(rows, s.K, o.pad);
      std::vector<int32_t> order;
      for (int64_t m = 0; m < s.M; ++m) order.push_back(static_cast<int32_t>((m * 7 + 2) % rows));
      if (o.gather) p.rows = own(OwnedTensor::ints(order)).as<int32_t>();
    }
    p.dy = input(s.M, s.N, o.pad);
    if (o.dx) p.w_t = input(s.K, s.N, 0, o.w), p.dx = output(s.M, s.K, o.pad);
    if (o.dw) p.dw = output(s.N, s.K, o.pad);
    return problems_.emplace_back(p);
  }

  // The same problems into fresh copies of every output; outputs that were shared stay shared.
  std::vector<GemmBwdProblem> fresh() {
    std::vector<GemmBwdProblem> copies = problems_;
    std::vector<std::pair<std::byte*, std::byte*>> moved;
    const auto move = [&](Tensor& t) {
      if (!t || t.elements() == 0) return;
      const auto at = std::find_if(moved.begin(), moved.end(), [&](const auto& m) { return m.first == t.data; });
      if (at != moved.end()) return void(t.data = at->second);
      const Tensor copy = own(OwnedTensor(DType::f32, {t[0], t.row_stride}));
      std::memcpy(copy.data, t.data, static_cast<size_t>(t[0] * t.row_stride) * sizeof(float));
      moved.emplace_back(t.data, copy.data);
      t.data = copy.data;
    };
    for (GemmBwdProblem& p : copies) move(p.dx), move(p.dw);
    return copies;
  }

  Tensor own(OwnedTensor t) { return owned_.emplace_back(std::move(t)); }
  std::vector<GemmBwdProblem>& problems() { return problems_; }

 private:
  ConstTensor input(int64_t rows, int64_t width, int64_t pad, DType dtype = DType::f32) {
    return without_gap<ConstTensor>(own(random_with_gap(rows, width, pad, ++seed_, dtype)), pad);
  }
  Tensor output(int64_t rows, int64_t width, int64_t pad) {
    const Rng rng(++seed_);
    const auto value = [&](int64_t i) {
      return i % (width + pad) >= width ? kGap : rng.normal(static_cast<uint64_t>(i));
    };
    return without_gap<Tensor>(own(OwnedTensor::filled({rows, width + pad}, value)), pad);
  }

  uint64_t seed_;
  std::deque<OwnedTensor> owned_;
  std::vector<GemmBwdProblem> problems_;
};

std::vector<const Variant<GemmBwdArgs>*> runnable_bwd_variants() {
  std::vector<const Variant<GemmBwdArgs>*> variants;
  for (const Variant<GemmBwdArgs>& v : gemm_bwd_variants())
    if (v.needs <= active_isa()) variants.push_back(&v);
  return variants;
}

std::vector<GemmBwdProblem> run(const Variant<GemmBwdArgs>& v, BwdBatch& batch, int n_threads = 2) {
  std::vector<GemmBwdProblem> problems = batch.fresh();
  test::run_plan(Plan<GemmBwdArgs>(v), GemmBwdArgs{problems}, n_threads);
  return problems;
}

// got - want in units of 1 + |a_row| |b_column| of the sum's two factors: Cauchy-Schwarz bounds the sum of the terms'
// magnitudes by it. f32 sums: see gemm_test.cpp, 8 * 2^-24; both factors rounded to bf16: 2^-8 each. Outputs that several
// problems add to: `parts` times that, and the units of each are about the same.
void expect_close(const Tensor& got, const Tensor& want, double unit, bool rounded, int64_t parts, const char* what) {
  const double tolerance = unit * (rounded ? 2 * 0x1p-8 : 8 * 0x1p-24) * static_cast<double>(parts);
  for (int64_t r = 0; r < got[0]; ++r) {
    for (int64_t c = 0; c < got[1]; ++c)
      ASSERT_NEAR(got.row<float>(r)[c], want.row<float>(r)[c], tolerance) << what << "(" << r << ", " << c << ")";
    for (int64_t c = got[1]; c < got.row_stride; ++c)
      ASSERT_EQ(got.row<float>(r)[c], kGap) << what << ": wrote past row " << r;
  }
}

// Rows of unit normal numbers have a norm of about sqrt(width); 1.6 times it is not exceeded by any row or column here.
double norm_bound(int64_t width) { return 1.6 * std::sqrt(static_cast<double>(width)) + 4; }

void expect_match(const std::vector<GemmBwdProblem>& got, const std::vector<GemmBwdProblem>& want, Isa needs,
                  int64_t parts = 1) {
  for (size_t i = 0; i < got.size(); ++i) {
    const GemmBwdProblem& p = got[i];
    const int64_t M = p.dy[0], N = p.dy[1];
    SCOPED_TRACE(cat("problem ", i, ": M=", M, " N=", N, " w_t ", name_of(p.w_t.dtype), p.rows ? " gather" : "",
                     p.accumulate_dx ? " accumulate_dx" : "", " compute ", name_of(p.compute)));
    const bool rounds = needs >= Isa::avx512_bf16 && p.compute == DType::bf16;
    const bool rounds_dy = p.w_t.dtype == DType::bf16 && (M > kGemvRows || needs == Isa::avx512_bf16);
    const double unit_dx = norm_bound(N) * norm_bound(N), unit_dw = norm_bound(M) * norm_bound(M);
    if (p.dx) expect_close(p.dx, want[i].dx, unit_dx, rounds && rounds_dy, parts, "dx");
    if (p.dw) expect_close(p.dw, want[i].dw, unit_dw, rounds, parts, "dw");
    if (testing::Test::HasFatalFailure()) return;
  }
}

void expect_variants_match(BwdBatch& batch, int64_t parts = 1) {
  std::vector<GemmBwdProblem> want = batch.fresh();
  gemm_ref_bwd({want});
  for (const Variant<GemmBwdArgs>* v : runnable_bwd_variants()) {
    SCOPED_TRACE(v->name);
    expect_match(run(*v, batch), want, v->needs, parts);
    if (testing::Test::HasFatalFailure()) return;
  }
}

// Together and one after the other: the same bits.
void expect_same_bits_one_by_one(BwdBatch& batch) {
  for (const Variant<GemmBwdArgs>* v : runnable_bwd_variants()) {
    const auto together = run(*v, batch);
    std::vector<GemmBwdProblem> alone = batch.fresh();
    for (GemmBwdProblem& p : alone) test::run_plan(Plan<GemmBwdArgs>(*v), GemmBwdArgs{{&p, 1}});
    for (size_t i = 0; i < alone.size(); ++i) {
      if (alone[i].dx) { EXPECT_TRUE(test::same_bits(together[i].dx, alone[i].dx)) << v->name << " " << i; }
      EXPECT_TRUE(test::same_bits(together[i].dw, alone[i].dw)) << v->name << " " << i;
    }
  }
}

// y is bilinear, so (y(x + u) - y(x - u)) / 2 is its derivative along u; small integers make every step exact in f32.
TEST(GemmBwd, DefinitionIsTheDerivativeOfTheForward) {
  const int64_t M = 5, N = 4, K = 6, Mx = 7;
  const auto ints = [](std::initializer_list<int64_t> dims, uint64_t seed) {
    const Rng rng(seed);
    return OwnedTensor::filled(
        dims, [&](int64_t i) { return static_cast<double>(rng.bits(static_cast<uint64_t>(i)) % 9) - 4; });
  };
  const std::vector<int32_t> rows = {3, 0, 6, 3, 1};
  const OwnedTensor x = ints({Mx, K}, 1), w = ints({N, K}, 2), dy = ints({M, N}, 3);
  const OwnedTensor u = ints({Mx, K}, 4), v = ints({N, K}, 5);
  const auto loss = [&](float hx, float hw) {
    OwnedTensor xs = OwnedTensor::zeros({Mx, K}), ws = OwnedTensor::zeros({N, K}), y = OwnedTensor::zeros({M, N});
    for (int64_t i = 0; i < Mx * K; ++i) xs.f32()[i] = x.f32()[i] + hx * u.f32()[i];
    for (int64_t i = 0; i < N * K; ++i) ws.f32()[i] = w.f32()[i] + hw * v.f32()[i];
    const GemmProblem p{.x = xs, .w = ws, .y = y, .rows = rows.data()};
    gemm_ref({{&p, 1}});
    double sum = 0;
    for (int64_t i = 0; i < M * N; ++i) sum += static_cast<double>(dy.f32()[i]) * y.f32()[i];
    return sum;
  };
  OwnedTensor w_t = OwnedTensor::zeros({K, N});
  for (int64_t n = 0; n < N; ++n)
    for (int64_t k = 0; k < K; ++k) w_t.f32()[k * N + n] = w.f32()[n * K + k];
  const OwnedTensor dx = OwnedTensor::zeros({M, K}), dw = OwnedTensor::zeros({N, K});
  const GemmBwdProblem p{.x = x, .w_t = w_t, .dy = dy, .dx = dx, .dw = dw, .rows = rows.data()};
  gemm_ref_bwd({{&p, 1}});
  double along_u = 0, along_v = 0;
  for (int64_t m = 0; m < M; ++m)
    for (int64_t k = 0; k < K; ++k)
      along_u += static_cast<double>(dx.f32()[m * K + k]) * u.f32()[rows[static_cast<size_t>(m)] * K + k];
  for (int64_t i = 0; i < N * K; ++i) along_v += static_cast<double>(dw.f32()[i]) * v.f32()[i];
  EXPECT_EQ(along_u, (loss(1, 0) - loss(-1, 0)) / 2);
  EXPECT_EQ(along_v, (loss(0, 1) - loss(0, -1)) / 2);
}

TEST(GemmBwd, MatchesReferenceAtEveryExtent) {
  for (DType compute : {DType::bf16, DType::f32})
    for (int64_t M : {1, 2, 8, 9, 31, 32, 33, 64, 100}) {
      BwdBatch batch(static_cast<uint64_t>(M));
      for (int64_t N : {1, 2, 8, 15, 16, 17, 33, 100})
        for (int64_t K : {1, 3, 15, 16, 17, 33, 64, 100}) batch.add({M, N, K}, {.compute = compute});
      expect_variants_match(batch);
    }
}

TEST(GemmBwd, MatchesReferenceWithEveryFlag) {
  for (DType w : {DType::f32, DType::bf16, DType::f16})
    for (DType compute : {DType::bf16, DType::f32})
      for (BwdOptions o : {BwdOptions{.gather = true, .pad = 3}, BwdOptions{.accumulate_dx = true, .pad = 16},
                           BwdOptions{.gather = true, .dx = false}, BwdOptions{.dw = false},
                           BwdOptions{.gather = true, .accumulate_dx = true, .pad = 1}}) {
        o.w = w, o.compute = compute;
        BwdBatch batch(5);
        for (int64_t M : {3, 40, 129})
          for (int64_t N : {7, 50})
            for (int64_t K : {18, 70}) {
              batch.add({M, N, K}, o);
              batch.add({M, N + 3, K}, o, true);
            }
        expect_variants_match(batch);
      }
}

// Experts: one x, rows of their own.
TEST(GemmBwd, NeighboursOfOneInputReadTheirOwnRows) {
  for (DType compute : {DType::bf16, DType::f32}) {
    BwdBatch batch(19);
    batch.add({40, 30, 50}, {.compute = compute, .gather = true});
    for (int64_t shift : {1, 2, 3}) {
      GemmBwdProblem& p = batch.add({40, 30, 50}, {.compute = compute, .gather = true}, true);
      std::vector<int32_t> other(p.rows, p.rows + 40);
      std::rotate(other.begin(), other.begin() + shift, other.end());
      p.rows = batch.own(OwnedTensor::ints(other)).as<int32_t>();
    }
    expect_variants_match(batch);
  }
}

// More than one block of tokens, and more than one round.
TEST(GemmBwd, MatchesReferenceAcrossBlocks) {
  for (DType compute : {DType::bf16, DType::f32}) {
    BwdBatch batch(11);
    for (int64_t M : {2047, 2048, 2049, 4200}) batch.add({M, 20, 33}, {.compute = compute, .gather = M == 1025});
    for (int64_t N : {40, 24}) batch.add({6000, N, 17}, {.compute = compute}, N == 24);
    for (int i = 0; i < 700; ++i) batch.add({10, 5, 6}, {.compute = compute});
    expect_variants_match(batch);
  }
}

// Several problems that add to one dx and to one dw, beside others that do not.
TEST(GemmBwd, AddsToOneOutputInTheOrderOfTheList) {
  for (DType compute : {DType::bf16, DType::f32}) {
    BwdBatch batch(23);
    batch.add({2500, 12, 20}, {.compute = compute});
    for (int i = 0; i < 3; ++i) {
      batch.add({9, 30, 20}, {.compute = compute});
      const Tensor dx = batch.problems()[0].dx, dw = batch.problems()[0].dw;
      GemmBwdProblem& p = batch.add({2500, 12, 20}, {.compute = compute, .accumulate_dx = true}, false);
      p.dx = dx, p.dw = dw;
    }
    expect_variants_match(batch, 4);
    expect_same_bits_one_by_one(batch);
  }
}

// A hundred problems of one task each that add to the same few rows: run side by side they would lose additions.
TEST(GemmBwd, ManySmallProblemsAddToOneOutput) {
  BwdBatch batch(29);
  for (int i = 0; i < 100; ++i) {
    GemmBwdProblem& p = batch.add({12, 96, 16}, {.accumulate_dx = true});
    if (i > 0) p.dx = batch.problems()[0].dx, p.dw = batch.problems()[0].dw;
  }
  expect_same_bits_one_by_one(batch);
}

// A long sum before a short one, again and again: run side by side the short ones would be there first. (One thread has them in
// order in any case; several mostly not, if they run at all while the first does.)
TEST(GemmBwd, LongAndShortProblemsAddToOneOutputInTheirOrder) {
  BwdBatch batch(41);
  for (int i = 0; i < 6; ++i) {
    GemmBwdProblem& dx = batch.add({600, i % 2 ? 3 : 900, 40}, {.accumulate_dx = i > 0, .dw = false});
    if (i > 0) dx.dx = batch.problems()[0].dx;
    GemmBwdProblem& dw = batch.add({i % 2 ? 10 : 4000, 300, 40}, {.dx = false});
    if (i > 0) dw.dw = batch.problems()[1].dw;
  }
  for (const Variant<GemmBwdArgs>* v : runnable_bwd_variants()) {
    std::vector<GemmBwdProblem> alone = batch.fresh();
    for (GemmBwdProblem& p : alone) test::run_plan(Plan<GemmBwdArgs>(*v), GemmBwdArgs{{&p, 1}});
    for (int n_threads : {1, 2, 3, 16}) {
      const auto together = run(*v, batch, n_threads);
      EXPECT_TRUE(test::same_bits(together[0].dx, alone[0].dx)) << v->name << " " << n_threads;
      EXPECT_TRUE(test::same_bits(together[1].dw, alone[1].dw)) << v->name << " " << n_threads;
    }
  }
}

// A wait for an earlier sum shifts the blocks of a problem's dw against its neighbour's, though both read one x.
TEST(GemmBwd, NeighboursOfOneInputAtDifferentBlocks) {
  BwdBatch batch(37);
  batch.add({100, 5, 20}, {.dx = false});
  const Tensor dw = batch.problems()[0].dw;
  batch.add({9000, 5, 20}, {.dx = false}).dw = dw;
  batch.add({9000, 6, 20}, {.dx = false}, true);
  expect_same_bits_one_by_one(batch);
}

TEST(GemmBwd, BitsDoNotDependOnThreads) {
  for (DType compute : {DType::bf16, DType::f32}) {
    BwdBatch batch(31);
    batch.add({3100, 130, 90}, {.compute = compute, .gather = true});
    batch.add({3100, 40, 90}, {.compute = compute}, true);
    for (int i = 0; i < 30; ++i) batch.add({i, 50, 40}, {.compute = compute, .gather = true});
    for (const Variant<GemmBwdArgs>* v : runnable_bwd_variants()) {
      const auto one = run(*v, batch, 1);
      for (int n_threads : {2, 3}) {
        const auto more = run(*v, batch, n_threads);
        for (size_t i = 0; i < one.size(); ++i) {
          EXPECT_TRUE(test::same_bits(more[i].dx, one[i].dx)) << v->name << " " << i;
          EXPECT_TRUE(test::same_bits(more[i].dw, one[i].dw)) << v->name << " " << i;
        }
      }
    }
  }
}

// compute f32 rounds nothing: a 1 among 2^-20 survives in every variant.
TEST(GemmBwd, ComputeF32NeverRounds) {
  BwdBatch batch(2);
  batch.add({40, 32, 48}, {.compute = DType::f32});
  for (Tensor t : {batch.problems()[0].dw}) std::fill_n(t.as<float>(), t.elements(), 0.0f);
  float* dy = const_cast<float*>(batch.problems()[0].dy.as<float>());
  float* x = const_cast<float*>(batch.problems()[0].x.as<float>());
  std::fill_n(dy, 40 * 32, 0.0f), std::fill_n(x, 40 * 48, 1.0f);
  for (int64_t n = 0; n < 32; ++n) dy[n] = 1 + 0x1p-20f;
  for (const Variant<GemmBwdArgs>* v : runnable_bwd_variants()) {
    const auto got = run(*v, batch);
    for (int64_t i = 0; i < 32 * 48; ++i) ASSERT_EQ(got[0].dw.as<float>()[i], 1 + 0x1p-20f) << v->name << " " << i;
  }
}

TEST(GemmBwd, ScratchDoesNotGrowWithTokens) {
  const auto bytes = [](const Variant<GemmBwdArgs>& v, int64_t M) {
    float nothing = 0;
    const GemmBwdProblem p{.x = ConstTensor(&nothing, DType::f32, {M, 512}),
                           .w_t = ConstTensor(&nothing, DType::bf16, {512, 1024}),
                           .dy = ConstTensor(&nothing, DType::f32, {M, 1024}),
                           .dx = Tensor(&nothing, DType::f32, {M, 512}),
                           .dw = Tensor(&nothing, DType::f32, {1024, 512})};
    return v.workspace_bytes({{&p, 1}}, 2);
  };
  for (const Variant<GemmBwdArgs>& v : gemm_bwd_variants()) {
    EXPECT_LE(bytes(v, 1000), bytes(v, 100'000)) << v.name;
    EXPECT_LE(bytes(v, 1'000'000), size_t{24} << 20) << v.name;
  }
}

TEST(GemmBwd, EmptyProblems) {
  BwdBatch batch(1);
  batch.add({0, 5, 7}, {});
  batch.add({12, 0, 7}, {});
  batch.add({12, 5, 0}, {});
  GemmBwdProblem absent;  // an expert without tokens: no memory at all
  absent.dy.rank = 2, absent.dy.shape = {0, 5};
  for (const Variant<GemmBwdArgs>* v : runnable_bwd_variants()) {
    std::vector<GemmBwdProblem> got = batch.fresh(), want = batch.fresh();
    gemm_ref_bwd({want});
    got.push_back(absent);
    (void)plan_gemm_bwd({got});
    test::run_plan(Plan<GemmBwdArgs>(*v), GemmBwdArgs{got});
    EXPECT_TRUE(test::same_bits(got[0].dw, want[0].dw)) << v->name;
    EXPECT_TRUE(test::same_bits(got[1].dx, want[1].dx)) << v->name << ": a sum of no terms";
  }
  test::run_plan(plan_gemm_bwd({}), GemmBwdArgs{});
}

TEST(GemmBwd, RefusesWhatDoesNotFit) {
  const OwnedTensor x = OwnedTensor::zeros({3, 4}), w_t = OwnedTensor::zeros({4, 5}, DType::bf16);
  const OwnedTensor dy = OwnedTensor::zeros({3, 5}), dx = OwnedTensor::zeros({3, 4}), dw = OwnedTensor::zeros({5, 4});
  const int32_t rows[] = {0, 3, 1};
  const auto message = [](const GemmBwdProblem& p) -> std::string {
    try {
      plan_gemm_bwd({{&p, 1}});
      return "accepted";
    } catch (const InvalidArgument& e) { return e.what(); }
  };
  EXPECT_EQ(message({.x = x, .w_t = w_t, .dy = dy, .dx = dx, .dw = dw}), "accepted");
  EXPECT_EQ(message({.w_t = w_t, .dy = dy, .dx = dx}), "accepted");
  EXPECT_EQ(message({.x = x, .dy = dy, .dw = dw}), "accepted");
  EXPECT_EQ(message({.w_t = w_t, .dy = dx, .dx = dx}),
            "gemm_bwd: problem 0: w_t: expected [4, 4] bf16, got [4, 5] bf16");
  EXPECT_EQ(message({.x = x, .dy = dy, .dw = dx}), "gemm_bwd: problem 0: dw: expected [5, 4] f32, got [3, 4] f32");
  EXPECT_EQ(message({.x = dw, .dy = dy, .dw = dw}), "gemm_bwd: problem 0: x: expected [3, -1] f32, got [5, 4] f32");
  EXPECT_EQ(message({.x = x, .dy = dy, .dw = dw, .rows = rows}),
            "gemm_bwd: problem 0: rows[1]: expected a row of x [3, 4] f32, got 3");
  EXPECT_EQ(message({.x = x, .dy = dy, .dw = dw, .compute = DType::f16}),
            "gemm_bwd: problem 0: compute: expected bf16 or f32, got f16");
}

TEST(Transpose, EveryDtypeAndExtent) {
  ThreadPool pool(2);
  Workspace nothing;
  for (DType from : {DType::f32, DType::bf16, DType::f16})
    for (DType to : {DType::f32, DType::bf16, DType::f16}) {
      if (from != to && from != DType::f32) continue;
      for (int64_t N : {0, 1, 3, 31, 32, 33, 100})
        for (int64_t K : {0, 1, 4, 5, 63, 64, 65, 130}) {
          const int64_t pad = 3;
          const OwnedTensor wide = random_with_gap(N, K, pad, 4, from);
          const ConstTensor in = without_gap<ConstTensor>(wide, pad);
          const OwnedTensor out = OwnedTensor::filled(
              {K, N + pad}, [](int64_t) { return 99; }, to);
          const Tensor t = without_gap<Tensor>(out, pad);
          transpose(in, t, Exec{pool, nothing});
          const auto bits = [](const ConstTensor& v, int64_t i) -> uint32_t {
            return size_of(v.dtype) == 2 ? reinterpret_cast<const uint16_t*>(v.data)[i]
                                         : reinterpret_cast<const uint32_t*>(v.data)[i];
          };
          const auto narrowed = [&](int64_t i) -> uint32_t {
            if (from == to) return bits(in, i);
            return to == DType::bf16 ? to_bf16(in.as<float>()[i]).bits : to_f16(in.as<float>()[i]).bits;
          };
          const uint32_t gap = bits(OwnedTensor::filled(
                                        {1}, [](int64_t) { return 99; }, to),
                                    0);
          for (int64_t k = 0; k < K; ++k)
            for (int64_t n = 0; n < N + pad; ++n)
              ASSERT_EQ(bits(t, k * (N + pad) + n), n < N ? narrowed(n * (K + pad) + k) : gap)
                  << name_of(from) << " to " << name_of(to) << " N=" << N << " K=" << K << " at " << k << ", " << n;
        }
    }
  const OwnedTensor a = OwnedTensor::zeros({2, 3}), b = OwnedTensor::zeros({2, 3});
  EXPECT_THROW(transpose(a, b, Exec{pool, nothing}), InvalidArgument);
  const OwnedTensor c = OwnedTensor::zeros({2, 3}, DType::bf16), d = OwnedTensor::zeros({3, 2});
  EXPECT_THROW(transpose(c, d, Exec{pool, nothing}), InvalidArgument);
}

TEST(CopyWeights, RoundsAndTransposesEveryMatrix) {
  Workspace nothing;
  for (DType type : {DType::f32, DType::bf16})
    for (int n_threads : {1, 3}) {
      ThreadPool pool(n_threads);
      std::vector<OwnedTensor> from, w, w_t;
      std::vector<WeightCopies> matrices;
      for (int64_t N : {0, 1, 31, 32, 33, 100})
        for (int64_t K : {0, 1, 5, 63, 511, 512, 513}) {
          from.push_back(OwnedTensor::normal({N, K}, static_cast<uint64_t>(N * 1000 + K)));
          w.push_back(OwnedTensor::zeros({N, K}, type)), w_t.push_back(OwnedTensor::zeros({K, N}, type));
        }
      from.back().f32()[7] = std::numeric_limits<float>::quiet_NaN();
      for (size_t i = 0; i < from.size(); ++i) matrices.push_back({.from = from[i], .w = w[i], .w_t = w_t[i]});
      copy_weights(matrices, Exec{pool, nothing});
      for (const WeightCopies& m : matrices)
        for (int64_t n = 0; n < m.from[0]; ++n)
          for (int64_t k = 0; k < m.from[1]; ++k) {
            const float x = m.from.row<float>(n)[k];
            if (type == DType::bf16) {
              ASSERT_EQ(m.w.row<bf16>(n)[k].bits, to_bf16(x).bits) << text_of(m.from) << " at " << n << ", " << k;
              ASSERT_EQ(m.w_t.row<bf16>(k)[n].bits, to_bf16(x).bits) << text_of(m.from) << " at " << n << ", " << k;
            } else {
              ASSERT_EQ(std::memcmp(m.w.row<float>(n) + k, &x, 4), 0) << text_of(m.from) << " at " << n << ", " << k;
              ASSERT_EQ(std::memcmp(m.w_t.row<float>(k) + n, &x, 4), 0) << text_of(m.from) << " at " << n << ", " << k;
            }
          }
    }
  ThreadPool pool(1);
  const OwnedTensor a = OwnedTensor::zeros({2, 3}), t = OwnedTensor::zeros({3, 2}),
                    h = OwnedTensor::zeros({3, 2}, DType::bf16);
  const WeightCopies same_shape{.from = a, .w = a, .w_t = a}, two_types{.from = a, .w = a, .w_t = h};
  EXPECT_THROW(copy_weights({&same_shape, 1}, Exec{pool, nothing}), InvalidArgument);
  EXPECT_THROW(copy_weights({&two_types, 1}, Exec{pool, nothing}), InvalidArgument);
}

}  // namespace
}  // namespace linnet::ops::gemm_test
