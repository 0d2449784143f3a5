// The head with cross-entropy: its definition against central differences, every variant against the definition, and what
// the contract promises beside the numbers.
#include "ops/cross_entropy/cross_entropy.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/errors.h"
#include "ops/gemm/gemm.h"
#include "support/compare.h"
#include "support/gradient.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

struct HeadShape {
  int64_t N, C, V;
};
struct HeadOptions {
  DType w = DType::bf16, compute = DType::bf16;
  bool weights = true, gradient = true, ignored = true;
  float scale = 0.25f, z_loss = 0.01f;
  int64_t pad = 0;  // of the rows of hidden and dhidden
};

// Logits of about unit variance. dw starts with numbers of its own.
struct Head {
  OwnedTensor hidden, w, w_t, target, weight, nll, lse, dhidden, dw;
  CrossEntropyArgs args;

  Head(const HeadShape& s, const HeadOptions& o, uint64_t seed = 1) {
    const double stddev = 1 / std::sqrt(static_cast<double>(s.C));
    const Rng rng(seed);
    hidden = OwnedTensor::normal({s.N, s.C + o.pad}, seed + 1);
    w = OwnedTensor::normal({s.V, s.C}, seed + 2, stddev, 0, o.w);
    w_t = OwnedTensor::filled(
        {s.C, s.V}, [&](int64_t i) { return at(w, i % s.V * s.C + i / s.V); }, o.w);
    std::vector<int32_t> targets;
    for (int64_t n = 0; n < s.N; ++n) {
      const uint64_t bits = rng.bits(static_cast<uint64_t>(n));
      targets.push_back(o.ignored && bits % 4 == 0 ? -1
                                                   : static_cast<int32_t>((bits >> 8) % static_cast<uint64_t>(s.V)));
    }
    target = OwnedTensor::ints(targets);
    weight = OwnedTensor::uniform({s.N}, seed + 3, 0, 2);
    nll = OwnedTensor::normal({s.N}, 1), lse = OwnedTensor::normal({s.N}, 2);
    dhidden = OwnedTensor::normal({s.N, s.C + o.pad}, 3);
    dw = OwnedTensor::normal({s.V, s.C}, 4);
    args = {.hidden = hidden.view().columns(0, s.C), .w = w, .target = target, .nll = nll, .lse = lse};
    args.scale = o.scale, args.z_loss = o.z_loss, args.compute = o.compute;
    if (o.weights) args.weight = weight;
    if (o.gradient) args.w_t = w_t, args.dhidden = dhidden.view().columns(0, s.C), args.dw = dw;
  }
  static double at(const ConstTensor& t, int64_t i) {
    return t.dtype == DType::f32    ? t.as<float>()[i]
           : t.dtype == DType::bf16 ? to_f32(t.as<bf16>()[i])
                                    : to_f32(t.as<f16>()[i]);
  }
};

std::vector<const Variant<CrossEntropyArgs>*> runnable() {
  std::vector<const Variant<CrossEntropyArgs>*> variants;
  for (const Variant<CrossEntropyArgs>& v : cross_entropy_variants())
    if (v.needs <= active_isa()) variants.push_back(&v);
  return variants;
}

void run(const Variant<CrossEntropyArgs>& v, const Head& head, int n_threads = 2) {
  test::run_plan(Plan<CrossEntropyArgs>(v), head.args, n_threads);
}

TEST(CrossEntropy, DefinitionIsTheGradientOfTheLoss) {
  for (bool weights : {false, true}) {
    const int64_t N = 5, C = 7, V = 9;
    const Head head({N, C, V}, {.w = DType::f32, .weights = weights, .z_loss = 0.05f});
    std::fill_n(head.dw.f32(), V * C, 0.0f);
    cross_entropy_ref(head.args);
    const auto loss = [&](const test::Point& p) {
      double sum = 0;
      for (int64_t n = 0; n < N; ++n) {
        std::vector<double> logits(static_cast<size_t>(V));
        double total = 0;
        for (int64_t v = 0; v < V; ++v) {
          double& logit = logits[static_cast<size_t>(v)];
          for (int64_t c = 0; c < C; ++c)
            logit += p[0][static_cast<size_t>(n * C + c)] * p[1][static_cast<size_t>(v * C + c)];
          total += std::exp(logit);
        }
        const int32_t target = head.target.i32()[n];
        if (target < 0) continue;
        const double lse = std::log(total), weight = weights ? head.weight.f32()[n] : 1;
        sum += 0.25 * weight * (lse - logits[static_cast<size_t>(target)] + double{0.05f} * lse * lse);
      }
      return sum;
    };
    EXPECT_TRUE(test::gradient_close({{"hidden", head.hidden, head.dhidden}, {"w", head.w, head.dw}}, loss));
  }
}

// Errors of a logit: of its f32 sum (see gemm_test.cpp), or of a hidden rounded to bf16, 2^-9 |hidden| |w| by
// Cauchy-Schwarz. |hidden| <= 1.6 sqrt(C) + 4 and |w| as much over sqrt(C) for every row here.
double logit_error(int64_t C, bool rounds) {
  const double root = std::sqrt(static_cast<double>(C)), norm = 1.6 * root + 4;
  return (rounds ? 0x1p-9 : 0) * norm * norm / root + 8 * 0x1p-24 * norm * norm / root + 1e-6;
}

void expect_variant_matches(const Variant<CrossEntropyArgs>& v, const HeadShape& s, const HeadOptions& o) {
  SCOPED_TRACE(cat(v.name, " N=", s.N, " C=", s.C, " V=", s.V, " w ", name_of(o.w), " compute ", name_of(o.compute)));
  const Head got(s, o), want(s, o);
  run(v, got);
  cross_entropy_ref(want.args);
  const bool rounds = v.needs >= Isa::avx512_bf16 && o.compute == DType::bf16;
  const double error = logit_error(s.C, rounds);
  const test::Tolerance loss{.abs = 2 * error, .rel = 4 * 0x1p-24, .why = "the error of lse and of one logit"};
  EXPECT_TRUE(test::close(got.nll, want.nll, loss));
  EXPECT_TRUE(test::close(got.lse, want.lse, loss));
  if (!o.gradient) return;
  // An error e of the logits changes softmax by a factor of at most 1 + 2 e, the factor of z_loss by 2 z e; rounding adds
  // 2^-9 to both factors of a product. sum_v |dlogit| <= 2 (1 + 2 z lse) factor <= 3 factor; |w| < 5 / sqrt(C) |hidden| < 5.
  const double each = 3 * 2 * o.scale * (2 * error + (rounds ? 2 * 0x1p-9 : 8 * 0x1p-24) + 1e-6);
  const test::Tolerance dhidden{.abs = each * 5 / std::sqrt(static_cast<double>(s.C)), .why = "sum |dlogit| max |w|"};
  EXPECT_TRUE(test::close(got.dhidden, want.dhidden, dhidden));
  // A row of dw: half of the sum over tokens of |dlogit| may be at its word's own tokens, others add softmax of 1 / V.
  const double tokens = 2 + 8.0 * static_cast<double>(s.N) / static_cast<double>(s.V);
  const test::Tolerance dw{.abs = each * 5 * tokens, .rel = 0x1p-23, .why = "sum over tokens of |dlogit| max |hidden|"};
  EXPECT_TRUE(test::close(got.dw, want.dw, dw));
}

TEST(CrossEntropy, MatchesReferenceAtEveryExtent) {
  for (const Variant<CrossEntropyArgs>* v : runnable())
    for (DType compute : {DType::f32, DType::bf16})
      for (const HeadShape& s : {HeadShape{1, 1, 1},
                                 {1, 5, 2},
                                 {7, 16, 15},
                                 {9, 33, 17},
                                 {20, 40, 63},
                                 {33, 40, 64},
                                 {40, 24, 65},
                                 {5, 8, 4097},
                                 {12, 8, 9001},
                                 {64, 100, 333}})
        expect_variant_matches(*v, s, {.compute = compute});
}

TEST(CrossEntropy, MatchesReferenceWithEveryOption) {
  for (const Variant<CrossEntropyArgs>* v : runnable())
    for (DType w : {DType::f32, DType::bf16, DType::f16})
      for (HeadOptions o : {HeadOptions{.weights = false}, HeadOptions{.ignored = false, .z_loss = 0},
                            HeadOptions{.gradient = false}, HeadOptions{.scale = 2, .pad = 3}}) {
        o.w = w;
        for (DType compute : {DType::f32, DType::bf16}) {
          o.compute = compute;
          expect_variant_matches(*v, {30, 24, 100}, o);
        }
      }
}

// More tokens than a block holds, and so few in the last that they take another kernel.
TEST(CrossEntropy, MatchesReferenceAcrossBlocks) {
  for (const Variant<CrossEntropyArgs>* v : runnable())
    for (DType compute : {DType::f32, DType::bf16}) {
      expect_variant_matches(*v, {515, 8, 50}, {.compute = compute});
      expect_variant_matches(*v, {1100, 8, 50}, {.compute = compute});
    }
}

// One word at 1000, wherever it stands, the others at -1000 and one far below.
TEST(CrossEntropy, LargeLogitsKeepTheirPrecision) {
  const int64_t V = 100;
  for (int64_t word = 0; word < V; ++word) {
    const Head head({2, 4, V},
                    {.w = DType::f32, .compute = DType::f32, .weights = false, .ignored = false, .z_loss = 0});
    std::fill_n(head.hidden.f32(), 8, 0.0f);
    head.hidden.f32()[0] = head.hidden.f32()[4] = 1;
    for (int64_t v = 0; v < V; ++v) head.w.f32()[v * 4] = v == word ? 1000.0f : v == (word + 1) % V ? -1e30f : -1000.0f;
    head.target.i32()[0] = static_cast<int32_t>(word);
    head.target.i32()[1] = static_cast<int32_t>((word + 2) % V);
    for (const Variant<CrossEntropyArgs>* v : runnable()) {
      run(*v, head);
      EXPECT_EQ(head.nll.f32()[0], 0) << v->name << " " << word;
      EXPECT_EQ(head.nll.f32()[1], 2000) << v->name << " " << word;
      EXPECT_EQ(head.lse.f32()[0], 1000) << v->name << " " << word;
      for (int64_t i = 0; i < 8; ++i) EXPECT_TRUE(std::isfinite(head.dhidden.f32()[i])) << v->name << " " << word;
    }
  }
}

// A NaN in a token's hidden makes its own loss NaN, and nothing of a token that is ignored.
TEST(CrossEntropy, NaNStaysWithItsToken) {
  const HeadShape s{20, 16, 40};
  for (const Variant<CrossEntropyArgs>* v : runnable()) {
    const Head clean(s, {.ignored = false}), bad(s, {.ignored = false});
    bad.hidden.f32()[3 * 16 + 5] = std::numeric_limits<float>::quiet_NaN();
    run(*v, clean), run(*v, bad);
    for (int64_t n = 0; n < s.N; ++n) {
      if (n == 3) EXPECT_TRUE(std::isnan(bad.nll.f32()[n]) && std::isnan(bad.dhidden.f32()[n * 16])) << v->name;
      else EXPECT_EQ(bad.nll.f32()[n], clean.nll.f32()[n]) << v->name << " " << n;
    }
    const Head ignored(s, {});
    std::fill_n(ignored.target.i32(), s.N, -1);
    run(*v, ignored);
    const Head untouched(s, {});
    EXPECT_TRUE(test::same_bits(ignored.dw, untouched.dw)) << v->name;
    for (int64_t i = 0; i < s.N * s.C; ++i) EXPECT_EQ(ignored.dhidden.f32()[i], 0) << v->name;
    for (int64_t n = 0; n < s.N; ++n) EXPECT_EQ(ignored.nll.f32()[n], 0) << v->name;
  }
}

TEST(CrossEntropy, BitsDoNotDependOnThreads) {
  for (const Variant<CrossEntropyArgs>* v : runnable())
    for (DType compute : {DType::f32, DType::bf16}) {
      const HeadShape s{700, 40, 333};
      const Head one(s, {.compute = compute});
      run(*v, one, 1);
      for (int n_threads : {2, 3}) {
        const Head more(s, {.compute = compute});
        run(*v, more, n_threads);
        EXPECT_TRUE(test::same_bits(more.nll, one.nll)) << v->name;
        EXPECT_TRUE(test::same_bits(more.lse, one.lse)) << v->name;
        EXPECT_TRUE(test::same_bits(more.dhidden, one.dhidden)) << v->name;
        EXPECT_TRUE(test::same_bits(more.dw, one.dw)) << v->name;
      }
    }
}

// Scratch holds a block of logits, never those of all tokens.
TEST(CrossEntropy, ScratchDoesNotGrowWithTokens) {
  for (int64_t V : {32'000, 163'840})
    for (const Variant<CrossEntropyArgs>& v : cross_entropy_variants()) {
      const auto bytes = [&](int64_t N) {
        std::byte* const at = nullptr;
        CrossEntropyArgs a{.hidden = {at, DType::f32, {N, 512}}, .w = {at, DType::bf16, {V, 512}}};
        a.w_t = {at, DType::bf16, {512, V}}, a.dhidden = {at, DType::f32, {N, 512}}, a.dw = {at, DType::f32, {V, 512}};
        return v.workspace_bytes(a, 2);
      };
      EXPECT_EQ(bytes(4096), bytes(1'000'000)) << v.name;
      EXPECT_LE(bytes(10), bytes(4096)) << v.name;
      EXPECT_LE(bytes(4096), 4 * std::max<size_t>(size_t{64} << 20, 128 * 4 * static_cast<size_t>(V))) << v.name;
    }
}

TEST(CrossEntropy, NoTokens) {
  for (const Variant<CrossEntropyArgs>* v : runnable()) {
    const Head head({0, 8, 20}, {}), untouched({0, 8, 20}, {});
    (void)plan_cross_entropy(head.args);
    run(*v, head);
    EXPECT_TRUE(test::same_bits(head.dw, untouched.dw)) << v->name;
  }
}

TEST(CrossEntropy, RefusesWhatDoesNotFit) {
  const Head head({3, 8, 20}, {.w = DType::f32});
  const auto message = [&](auto change) -> std::string {
    CrossEntropyArgs a = head.args;
    change(a);
    try {
      plan_cross_entropy(a);
      return "accepted";
    } catch (const InvalidArgument& e) { return e.what(); }
  };
  using Args = CrossEntropyArgs;
  EXPECT_EQ(message([](Args&) {}), "accepted");
  EXPECT_EQ(message([](Args& a) { a.lse = {}, a.weight = {}; }), "accepted");
  EXPECT_EQ(message([](Args& a) { a.dhidden = {}, a.dw = {}, a.w_t = {}; }), "accepted");
  EXPECT_EQ(message([](Args& a) { a.dw = {}; }), "cross_entropy: dhidden and dw: expected both or neither");
  EXPECT_EQ(message([](Args& a) { a.w_t = {}; }), "cross_entropy: w_t: expected [8, 20] f32, got absent");
  EXPECT_EQ(message([](Args& a) { a.w = a.w.columns(0, 7); }),
            "cross_entropy: w: expected [-1, 8] f32, got [20, 7] f32");
  EXPECT_EQ(message([](Args& a) { a.compute = DType::f16; }), "cross_entropy: compute: expected bf16 or f32, got f16");
  head.target.i32()[2] = 20;
  EXPECT_EQ(message([](Args&) {}), "cross_entropy: target[2]: expected -1 or in [0, 20), got 20");
  head.target.i32()[2] = -2;
  EXPECT_EQ(message([](Args&) {}), "cross_entropy: target[2]: expected -1 or in [0, 20), got -2");
}

}  // namespace
}  // namespace linnet::ops
