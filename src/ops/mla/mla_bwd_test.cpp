// Gradient of latent attention: the reference against central differences, the variant against the reference; masks,
// cuts into blocks, what is added to and what is overwritten; threads in bits.
#include "ops/mla/mla_bwd.h"

#include <cmath>
#include <limits>

#include "support/compare.h"
#include "support/gradient.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

struct Sizes {
  int64_t H = 3, Dn = 12, Dr = 8, Dv = 10, R = 24;  // widths that no vector length divides, all different
  DType weight = DType::f32, compute = DType::f32;
};

struct Answer {
  OwnedTensor dq, dlatent, dkv_b, max_logit;
};

// kv_b ~ N(0, 1/R) and latents ~ N(0, 1) make keys, values and scaled scores ~ N(0, 1).
struct Case {
  Sizes s;
  int64_t N = 0;
  OwnedTensor q, kv_b, kv_b_t, latent, seq_start, out, dout, old_dkv_b;

  Case(const Sizes& sizes, const std::vector<int32_t>& lengths, uint64_t seed = 1) : s(sizes) {
    std::vector<int32_t> starts = {0};
    for (int32_t n : lengths) starts.push_back(starts.back() + n);
    N = starts.back();
    const int64_t rows = s.H * (s.Dn + s.Dv);
    seq_start = OwnedTensor::ints(starts);
    q = OwnedTensor::normal({N, s.H, s.Dn + s.Dr}, seed);
    latent = OwnedTensor::normal({N, s.R + s.Dr}, seed + 1);
    kv_b = OwnedTensor::normal({rows, s.R}, seed + 2, 1 / std::sqrt(static_cast<double>(s.R)), 0, s.weight);
    kv_b_t = OwnedTensor::zeros({s.R, rows}, s.weight);
    const auto size = static_cast<size_t>(size_of(s.weight));
    for (int64_t i = 0; i < rows * s.R; ++i)
      std::copy_n(kv_b.view().data + static_cast<size_t>(i) * size, size,
                  kv_b_t.view().data + static_cast<size_t>(i % s.R * rows + i / s.R) * size);
    dout = OwnedTensor::normal({N, s.H, s.Dv}, seed + 3);
    old_dkv_b = OwnedTensor::normal({rows, s.R}, seed + 4);
    out = OwnedTensor::zeros({N, s.H, s.Dv});
    forward();
  }

  void forward() {
    std::vector<std::vector<const std::byte*>> tables;
    std::vector<MlaSequence> seqs;
    for (int64_t b = 0; b + 1 < seq_start.view()[0]; ++b) {
      const int64_t first = seq_start.i32()[b], n = seq_start.i32()[b + 1] - first;
      tables.emplace_back(static_cast<size_t>(mla_blocks(n)));
      mla_dense_blocks(latent.view().row<float>(first), n, (s.R + s.Dr) * 4, tables.back().data());
      seqs.push_back({tables.back().data(), 0});
    }
    mla_ref({.q = q,
             .kv_b = kv_b,
             .seq_start = seq_start,
             .seqs = seqs.data(),
             .cache_dtype = DType::f32,
             .R = s.R,
             .Dn = s.Dn,
             .Dr = s.Dr,
             .Dv = s.Dv,
             .out = out,
             .scale = scale()});
  }

  float scale() const { return 1 / std::sqrt(static_cast<float>(s.Dn + s.Dr)); }

  // Arguments that write into fresh memory: NaN where the op overwrites, old values where it adds or raises.
  MlaBwdArgs args(Answer& to) const {
    const auto nan = [](int64_t) { return std::numeric_limits<double>::quiet_NaN(); };
    to.dq = OwnedTensor::filled({N, s.H, s.Dn + s.Dr}, nan), to.dlatent = OwnedTensor::filled({N, s.R + s.Dr}, nan);
    to.dkv_b = OwnedTensor::filled({s.H * (s.Dn + s.Dv), s.R}, [&](int64_t i) { return old_dkv_b.f32()[i]; });
    to.max_logit = OwnedTensor::filled({s.H}, [](int64_t h) { return h == 1 ? 50 : -50; });
    return {.q = q,
            .kv_b = kv_b,
            .kv_b_t = kv_b_t,
            .latent = latent,
            .seq_start = seq_start,
            .out = out,
            .dout = dout,
            .R = s.R,
            .Dn = s.Dn,
            .Dr = s.Dr,
            .Dv = s.Dv,
            .dq = to.dq,
            .dlatent = to.dlatent,
            .dkv_b = to.dkv_b,
            .max_logit = to.max_logit,
            .scale = scale(),
            .compute = s.compute};
  }
};

Answer reference(const Case& c) {
  Answer answer;
  mla_ref_bwd(c.args(answer));
  return answer;
}

Answer run(const Case& c, int n_threads = 2) {
  Answer answer;
  const MlaBwdArgs args = c.args(answer);
  test::run_plan(plan_mla_bwd(args), args, n_threads);
  return answer;
}

double largest(const ConstTensor& t) {
  double max = 0;
  for (int64_t i = 0; i < t.elements(); ++i) max = std::max(max, std::abs(static_cast<double>(t.as<float>()[i])));
  return max;
}

// A score is a chain of at most Dn + R + Dr roundings, which p carries into every gradient; the sums over keys, queries
// and values follow, longest N. Terms have both signs, so what a chain of n loses is about sqrt(n) roundings of its
// largest partial sum, itself a few times the largest result (or of size 1 where all results are small): 4 sqrt(n) 2^-24,
// times 2 for several chains in a row.
void expect_close(const Case& c, const Answer& got, const Answer& want) {
  const double n = static_cast<double>(c.s.Dn + c.s.R + c.s.Dr + c.s.Dv + c.N);
  // The bf16 products with kv_b round latents, and gradients of keys and values, by 2^-9 a term; scores of size up to 4
  // carry it into p.
  const double rounding = c.s.compute == DType::bf16 ? 8 * 0x1p-9 : 8 * std::sqrt(n) * 0x1p-24;
  const auto near = [&](const OwnedTensor& a, const OwnedTensor& b) {
    return test::close(
        a, b,
        {.abs = rounding * std::max(1.0, largest(b)), .why = "8 sqrt(Dn + R + Dr + Dv + N) roundings, or bf16's"});
  };
  EXPECT_TRUE(near(got.dq, want.dq)) << "dq";
  EXPECT_TRUE(near(got.dlatent, want.dlatent)) << "dlatent";
  EXPECT_TRUE(near(got.dkv_b, want.dkv_b)) << "dkv_b";
  EXPECT_TRUE(near(got.max_logit, want.max_logit)) << "max_logit";
}

void expect_as_reference(const Sizes& s, const std::vector<int32_t>& lengths) {
  const Case c(s, lengths);
  expect_close(c, run(c), reference(c));
}

// ---- The reference against central differences of a forward in double. ----

// sum over all queries of dout . out; raises max[h] to the largest score.
double loss(const Case& c, const test::Point& at, std::vector<double>& max) {
  const std::vector<double>&q = at[0], &kv_b = at[1], &latent = at[2];
  const int64_t H = c.s.H, Dn = c.s.Dn, Dr = c.s.Dr, Dv = c.s.Dv, R = c.s.R;
  const auto expanded = [&](int64_t j, int64_t row) {
    double sum = 0;
    for (int64_t r = 0; r < R; ++r)
      sum += kv_b[static_cast<size_t>(row * R + r)] * latent[static_cast<size_t>(j * (R + Dr) + r)];
    return sum;
  };
  double total = 0;
  for (int64_t b = 0; b + 1 < c.seq_start.view()[0]; ++b)
    for (int64_t h = 0; h < H; ++h)
      for (int64_t first = c.seq_start.i32()[b], i = first; i < c.seq_start.i32()[b + 1]; ++i) {
        double weights = 0, sum = 0;
        for (int64_t j = first; j <= i; ++j) {
          double score = 0, value = 0;
          for (int64_t d = 0; d < Dn + Dr; ++d)
            score += q[static_cast<size_t>((i * H + h) * (Dn + Dr) + d)] *
                     (d < Dn ? expanded(j, h * (Dn + Dv) + d) : latent[static_cast<size_t>(j * (R + Dr) + R + d - Dn)]);
          for (int64_t d = 0; d < Dv; ++d)
            value += c.dout.f32()[(i * H + h) * Dv + d] * expanded(j, h * (Dn + Dv) + Dn + d);
          score *= c.scale();
          max[static_cast<size_t>(h)] = std::max(max[static_cast<size_t>(h)], score);
          weights += std::exp(score), sum += std::exp(score) * value;
        }
        total += sum / weights;
      }
  return total;
}

TEST(MlaBwd, ReferenceMatchesCentralDifferences) {
  for (const Sizes& s :
       {Sizes{.H = 2, .Dn = 5, .Dr = 3, .Dv = 4, .R = 7}, Sizes{.H = 3, .Dn = 4, .Dr = 0, .Dv = 6, .R = 2}}) {
    Case c(s, {5, 1, 0, 9});
    c.old_dkv_b = OwnedTensor::zeros({s.H * (s.Dn + s.Dv), s.R});
    const Answer g = reference(c);
    std::vector<double> max = {-50, 50, -50};
    const auto loss_at = [&](const test::Point& at) { return loss(c, at, max); };
    loss_at({test::doubles(c.q), test::doubles(c.kv_b), test::doubles(c.latent)});
    for (int64_t h = 0; h < s.H; ++h) EXPECT_NEAR(g.max_logit.f32()[h], max[static_cast<size_t>(h)], 1e-6);
    EXPECT_TRUE(
        test::gradient_close({{"q", c.q, g.dq}, {"kv_b", c.kv_b, g.dkv_b}, {"latent", c.latent, g.dlatent}}, loss_at))
        << "Dr=" << s.Dr;
  }
}

// ---- The variant against the reference. ----

TEST(MlaBwd, MatchesReferenceAtEveryLength) {
  for (int32_t n : {1, 2, 15, 16, 17, 31, 32, 33, 50, 63, 64, 65, 80, 127, 128, 129, 200}) {
    SCOPED_TRACE(cat("n=", n));
    expect_as_reference({}, {n});
  }
}

TEST(MlaBwd, MatchesReferenceAtEveryWidthAndType) {
  const Sizes widths[] = {
      {.H = 2, .Dn = 1, .Dr = 0, .Dv = 1, .R = 1},     {.H = 3, .Dn = 16, .Dr = 0, .Dv = 32, .R = 48},
      {.H = 2, .Dn = 32, .Dr = 16, .Dv = 16, .R = 64}, {.H = 9, .Dn = 7, .Dr = 3, .Dv = 65, .R = 33},
      {.H = 1, .Dn = 64, .Dr = 32, .Dv = 48, .R = 96}, {.H = 1, .Dn = 3, .Dr = 33, .Dv = 17, .R = 5}};
  for (Sizes s : widths)
    for (DType weight : {DType::f32, DType::bf16, DType::f16})
      for (DType compute : {DType::f32, DType::bf16}) {
        s.weight = weight, s.compute = compute;
        SCOPED_TRACE(cat("H=", s.H, " Dn=", s.Dn, " Dr=", s.Dr, " Dv=", s.Dv, " R=", s.R, " ", name_of(weight), " ",
                         name_of(compute)));
        expect_as_reference(s, {70, 3, 37});
      }
}

TEST(MlaBwd, RaggedBatches) {
  for (int64_t H : {1, 3, 12}) {
    SCOPED_TRACE(cat("H=", H));
    expect_as_reference({.H = H}, {});
    expect_as_reference({.H = H}, {0});
    expect_as_reference({.H = H}, {0, 5, 0, 0, 1, 140, 64, 2, 0, 33, 0});
  }
}

TEST(MlaBwd, BlocksOfSequencesAndOfHeads) {
  // 1,400 * 10 tokens of 40 heads are 560,000 rows of 32 floats: more than the 2^24 of a block.
  expect_as_reference({.H = 40, .Dn = 3, .Dr = 1, .Dv = 2, .R = 2}, std::vector<int32_t>(1400, 10));
  // 20 tokens of 9 heads are 180 rows of 100,016 floats: one sequence, eight heads and then the ninth.
  expect_as_reference({.H = 9, .Dn = 2, .Dr = 2, .Dv = 99'998, .R = 1}, {3, 20, 1});
}

TEST(MlaBwd, StridedRows) {
  const Case c({}, {40, 0, 3});
  const Answer want = reference(c);
  const auto wide = [&](const OwnedTensor& x, int64_t pad, std::vector<float>& memory) {
    const ConstTensor from = x;
    memory.assign(static_cast<size_t>(c.N * (from.row_elements() + pad)), std::numeric_limits<float>::quiet_NaN());
    Tensor to(memory.data(), DType::f32, {c.N, from[1], from[2]});
    to.row_stride += pad;
    for (int64_t n = 0; n < c.N; ++n) std::copy_n(from.row<float>(n), from.row_elements(), to.row<float>(n));
    return to;
  };
  std::vector<float> q, out, dout, dq;
  Answer got;
  MlaBwdArgs args = c.args(got);
  args.q = wide(c.q, 5, q), args.out = wide(c.out, 3, out), args.dout = wide(c.dout, 9, dout);
  args.dq = wide(got.dq, 1, dq);
  test::run_plan(plan_mla_bwd(args), args);
  for (int64_t n = 0; n < c.N; ++n) {
    std::copy_n(args.dq.row<float>(n), args.dq.row_elements(), got.dq.view().row<float>(n));
    EXPECT_TRUE(std::isnan(args.dq.row<float>(n)[args.dq.row_elements()])) << "written behind row " << n;
  }
  expect_close(c, got, want);
}

TEST(MlaBwd, MaxLogitMayBeAbsent) {
  const Case c({}, {70});
  const Answer with = run(c);
  Answer without;
  MlaBwdArgs args = c.args(without);
  args.max_logit = {};
  test::run_plan(plan_mla_bwd(args), args);
  EXPECT_TRUE(test::same_bits(without.dq, with.dq));
  EXPECT_TRUE(test::same_bits(without.dkv_b, with.dkv_b));
  EXPECT_EQ(without.max_logit.f32()[0], -50);
}

TEST(MlaBwd, LargeScoresDoNotOverflow) {  // |score| in the hundreds: exp of it is outside f32
  Case c({}, {90, 7});
  for (int64_t i = 0; i < c.q.view().elements(); ++i) c.q.f32()[i] *= 100;
  c.forward();
  const Answer got = run(c), want = reference(c);
  // A score of s is off by s 2^-24 and a few, and p by as much: 400 times more than at scores of size 1.
  for (auto [a, b] : {std::pair{&got.dq, &want.dq}, {&got.dlatent, &want.dlatent}, {&got.dkv_b, &want.dkv_b}})
    EXPECT_TRUE(test::close(*a, *b, {.abs = 400 * 8 * 0x1p-24 * largest(*b), .why = "400 x 8 roundings"}));
}

// The model's one use of tokens that come later: none. A query's dq is the same bits whatever follows it.
TEST(MlaBwd, CausalInBits) {
  const Case c({}, {150});
  const Answer before = run(c);
  for (int64_t t : {1, 16, 63, 64, 100, 149}) {
    Case changed = c;
    changed.latent = OwnedTensor::filled(
        {c.N, c.s.R + c.s.Dr}, [&](int64_t i) { return c.latent.f32()[i] * (i < t * (c.s.R + c.s.Dr) ? 1 : 3); });
    changed.q = OwnedTensor::filled({c.N, c.s.H, c.s.Dn + c.s.Dr}, [&](int64_t i) {
      return c.q.f32()[i] * (i < t * c.s.H * (c.s.Dn + c.s.Dr) ? 1 : 3);
    });
    const Answer after = run(changed);
    EXPECT_TRUE(test::same_bits(after.dq.view().rows(0, t), before.dq.view().rows(0, t))) << t;
    EXPECT_FALSE(test::same_bits(after.dq, before.dq)) << t;
  }
}

TEST(MlaBwd, BitsDoNotDependOnThreads) {
  for (DType compute : {DType::f32, DType::bf16}) {
    const Case c({.H = 5, .weight = DType::bf16, .compute = compute}, {300, 1, 50, 0, 64, 130});
    const Answer one = run(c, 1);
    for (int n : {2, 3, 7}) {
      const Answer more = run(c, n);
      EXPECT_TRUE(test::same_bits(more.dq, one.dq)) << n;
      EXPECT_TRUE(test::same_bits(more.dlatent, one.dlatent)) << n;
      EXPECT_TRUE(test::same_bits(more.dkv_b, one.dkv_b)) << n;
      EXPECT_TRUE(test::same_bits(more.max_logit, one.max_logit)) << n;
    }
  }
}

TEST(MlaBwd, NamesWhatIsWrong) {
  const Case c({}, {2, 4});
  Answer to;
  const auto message = [&](auto change) {
    MlaBwdArgs args = c.args(to);
    change(args);
    try {
      plan_mla_bwd(args);
    } catch (const InvalidArgument& e) { return std::string(e.what()); }
    return std::string("accepted");
  };
  const OwnedTensor over = OwnedTensor::ints({0, 2, 7}), back = OwnedTensor::ints({0, 8, 6});
  EXPECT_EQ(message([](MlaBwdArgs&) {}), "accepted");
  EXPECT_EQ(message([](MlaBwdArgs& a) { a.R = 0; }), "mla_bwd: R: expected at least 1, got 0");
  EXPECT_EQ(message([](MlaBwdArgs& a) { a.Dr = 9; }), "mla_bwd: q: expected [-1, -1, 21] f32, got [6, 3, 20] f32");
  EXPECT_EQ(message([](MlaBwdArgs& a) { a.kv_b_t = a.kv_b; }),
            "mla_bwd: kv_b_t: expected [24, 66] f32, got [66, 24] f32");
  EXPECT_EQ(message([](MlaBwdArgs& a) { a.latent.row_stride = 40; }),
            "mla_bwd: latent: expected dense rows, got row stride 40");
  EXPECT_EQ(message([](MlaBwdArgs& a) { a.out = {}; }), "mla_bwd: out: expected [6, 3, 10] f32, got absent");
  EXPECT_EQ(message([](MlaBwdArgs& a) { a.max_logit = a.max_logit.rows(0, 2); }),
            "mla_bwd: max_logit: expected [3] f32, got [2] f32");
  EXPECT_EQ(message([](MlaBwdArgs& a) { a.compute = DType::f16; }), "mla_bwd: compute: expected f32 or bf16, got f16");
  EXPECT_EQ(message([&](MlaBwdArgs& a) { a.seq_start = over; }),
            "mla_bwd: seq_start: expected offsets from 0 to 6, got [3] i32 from 0 to 7");
  EXPECT_EQ(message([&](MlaBwdArgs& a) { a.seq_start = back; }), "mla_bwd: seq_start[2]: expected at least 8, got 6");
}

}  // namespace
}  // namespace linnet::ops
