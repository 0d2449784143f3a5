// Latent attention: both ways against the definition and against each other; causality, cuts, batches and threads in
// bits.
#include "ops/mla/mla.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>

#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

struct Sizes {
  int64_t H = 4, Dn = 12, Dr = 8, Dv = 10, R = 24;  // widths that no vector length divides, all different
  DType weight = DType::f32, cache = DType::f32;
};

struct Seq {
  int64_t past, now;
};

// A batch with caches of its own. kv_b ~ N(0, 1/R) and latents ~ N(0, 1) make keys, values and scaled scores ~ N(0, 1).
struct MlaCase {
  Sizes sizes;
  OwnedTensor q, kv_b, seq_start, out;
  std::vector<OwnedTensor> caches;
  std::vector<MlaSequence> seqs;
  std::vector<OwnedTensor> blocks;  // the caches again, each block by itself
  std::vector<std::vector<const std::byte*>> tables;

  MlaCase(const Sizes& s, const std::vector<Seq>& lengths, uint64_t seed = 1, double q_stddev = 1) : sizes(s) {
    std::vector<int32_t> starts = {0};
    for (const Seq& seq : lengths) {
      starts.push_back(starts.back() + static_cast<int32_t>(seq.now));
      caches.push_back(OwnedTensor::normal({seq.past + seq.now, s.R + s.Dr}, ++seed, 1, 0, s.cache));
      seqs.push_back({nullptr, seq.past});
    }
    seq_start = OwnedTensor::ints(starts);
    q = OwnedTensor::normal({starts.back(), s.H, s.Dn + s.Dr}, seed + 100, q_stddev);
    kv_b = OwnedTensor::normal({s.H * (s.Dn + s.Dv), s.R}, seed + 200, 1 / std::sqrt(static_cast<double>(s.R)), 0,
                               s.weight);
    out = OwnedTensor::zeros({starts.back(), s.H, s.Dv});
  }

  MlaArgs args() {
    scatter();
    return {.q = q,
            .kv_b = kv_b,
            .seq_start = seq_start,
            .seqs = seqs.data(),
            .cache_dtype = sizes.cache,
            .R = sizes.R,
            .Dn = sizes.Dn,
            .Dr = sizes.Dr,
            .Dv = sizes.Dv,
            .out = out,
            .scale = 1 / std::sqrt(static_cast<float>(sizes.Dn + sizes.Dr))};
  }

  // Blocks lie neither in order nor next to each other, and what follows the last row is NaN.
  void scatter() {
    const int64_t E = sizes.R + sizes.Dr;
    blocks.clear(), tables.assign(seqs.size(), {});
    for (size_t b = 0; b < seqs.size(); ++b) {
      const int64_t rows = caches[b].view()[0];
      tables[b].resize(static_cast<size_t>(mla_blocks(rows)));
      for (int64_t i = mla_blocks(rows); i-- > 0;) {
        const int64_t n = std::min(kMlaBlock, rows - i * kMlaBlock);
        blocks.push_back(OwnedTensor::filled(
            {kMlaBlock, E}, [](int64_t) { return std::nan(""); }, sizes.cache));
        const ConstTensor from = caches[b].view().rows(i * kMlaBlock, i * kMlaBlock + n);
        std::memcpy(blocks.back().view().data, from.data, static_cast<size_t>(from.bytes()));
        tables[b][static_cast<size_t>(i)] = blocks.back().view().data;
      }
      seqs[b].blocks = tables[b].data();
    }
  }
};

Plan<MlaArgs> plan_of(std::string_view name) {
  for (const Variant<MlaArgs>& v : mla_variants())
    if (name == v.name) return Plan<MlaArgs>(v);
  throw InvalidArgument(cat("no variant ", name));
}

constexpr const char* kWays[] = {"simd_absorbed", "simd_expanded"};

OwnedTensor run(MlaCase& c, std::string_view way, int n_threads = 2) {
  c.out = OwnedTensor::filled({c.q.view()[0], c.sizes.H, c.sizes.Dv}, [](int64_t) { return std::nan(""); });
  const MlaArgs args = c.args();
  test::run_plan(plan_of(way), args, n_threads);
  return c.out;
}

OwnedTensor run_ref(MlaCase& c) {
  c.out = OwnedTensor::zeros({c.q.view()[0], c.sizes.H, c.sizes.Dv});
  mla_ref(c.args());
  return c.out;
}

// A scaled score of size `score` is a chain of at most Dn + R + Dr roundings, p a chain of 64 more, and out a mean of
// values of size 1 to 4 whose weights are off by the score's error. Roundings partly cancel: half of that bound.
test::Tolerance tolerance(const Sizes& s, double score = 1) {
  return {.abs = 0.5 * static_cast<double>(s.Dn + s.R + s.Dr + 64) * score * 0x1p-24,
          .why = "(Dn + R + Dr + 64) / 2 roundings of 2^-24 |score|"};
}

void expect_as_reference(const Sizes& s, const std::vector<Seq>& lengths) {
  MlaCase c(s, lengths);
  const OwnedTensor want = run_ref(c);
  for (const char* way : kWays) {
    SCOPED_TRACE(way);
    EXPECT_TRUE(test::close(run(c, way), want, tolerance(s)));
  }
}

TEST(Mla, MatchesReferenceAtEveryLength) {
  for (int64_t H : {1, 4, 5})
    for (int64_t past : {0, 1, 63, 64, 65, 1000})
      for (int64_t now : {1, 2, 17, 64, 65, 200}) {
        SCOPED_TRACE(cat("H=", H, " past=", past, " now=", now));
        expect_as_reference({.H = H}, {{past, now}});
      }
}

TEST(Mla, MatchesReferenceAtEveryWidthAndType) {
  const Sizes widths[] = {
      {.H = 2, .Dn = 1, .Dr = 0, .Dv = 1, .R = 1},     {.H = 3, .Dn = 16, .Dr = 0, .Dv = 32, .R = 48},
      {.H = 2, .Dn = 32, .Dr = 16, .Dv = 16, .R = 64}, {.H = 9, .Dn = 7, .Dr = 3, .Dv = 65, .R = 33},
      {.H = 40, .Dn = 4, .Dr = 4, .Dv = 4, .R = 8},    {.H = 1, .Dn = 128, .Dr = 64, .Dv = 128, .R = 512}};
  for (Sizes s : widths)
    for (DType weight : {DType::f32, DType::bf16, DType::f16})
      for (DType cache : {DType::f32, DType::bf16}) {
        s.weight = weight, s.cache = cache;
        SCOPED_TRACE(cat("H=", s.H, " Dn=", s.Dn, " Dr=", s.Dr, " Dv=", s.Dv, " R=", s.R, " ", name_of(weight), " ",
                         name_of(cache)));
        expect_as_reference(s, {{70, 1}, {0, 37}});
      }
}

TEST(Mla, RaggedBatches) {
  for (int64_t H : {3, 32}) {
    SCOPED_TRACE(cat("H=", H));
    expect_as_reference({.H = H}, {});
    expect_as_reference({.H = H}, {{0, 0}});
    expect_as_reference({.H = H}, {{5, 0}, {600, 1}, {0, 70}, {0, 0}, {0, 1}, {3, 2}, {511, 1}, {512, 1}, {9, 0}});
  }
}

// More sequences than advance together in the expanded way, and more keys; some end sooner than others.
TEST(Mla, ManySequences) {
  std::vector<Seq> lengths;
  for (int64_t b = 0; b < 150; ++b) lengths.push_back({b % 9 == 0 ? 40 : 0, b % 7});
  for (int64_t now : {300, 20, 513, 64, 257, 3, 256}) lengths.push_back({0, now});
  for (DType cache : {DType::f32, DType::bf16}) expect_as_reference({.H = 2, .cache = cache}, lengths);
}

TEST(Mla, StridedQueriesAndResults) {
  MlaCase c({}, {{10, 3}, {0, 40}});
  const OwnedTensor want = run_ref(c);
  const int64_t N = 43, q_width = 4 * 20, out_width = 4 * 10;
  const OwnedTensor wide_q = OwnedTensor::zeros({N, q_width + 5}), wide_out = OwnedTensor::zeros({N, out_width + 7});
  for (int64_t n = 0; n < N; ++n) std::copy_n(c.q.f32() + n * q_width, q_width, wide_q.f32() + n * (q_width + 5));
  for (const char* way : kWays) {
    MlaArgs args = c.args();
    args.q = Tensor(wide_q.f32(), DType::f32, {N, 4, 20}), args.q.row_stride = q_width + 5;
    args.out = Tensor(wide_out.f32(), DType::f32, {N, 4, 10}), args.out.row_stride = out_width + 7;
    test::run_plan(plan_of(way), args);
    EXPECT_TRUE(test::close(args.out, want, tolerance(c.sizes))) << way;
    for (int64_t n = 0; n < N; ++n) EXPECT_EQ(wide_out.f32()[n * (out_width + 7) + out_width], 0);
  }
}

TEST(Mla, LargeScoresDoNotOverflow) {  // |score| up to about 4000: exp of it is far outside f32 and even double
  MlaCase c({}, {{100, 30}, {700, 1}}, 3, 1000);
  const OwnedTensor want = run_ref(c);
  for (const char* way : kWays) EXPECT_TRUE(test::close(run(c, way), want, tolerance(c.sizes, 4000))) << way;
}

// A query's bits do not change when later tokens do, be they as bad as NaN.
TEST(Mla, CausalInBits) {
  for (const char* way : kWays)
    for (int64_t past : {0, 50}) {
      const int64_t T = 150;
      MlaCase c({.H = 5}, {{past, T}});
      const OwnedTensor before = run(c, way);
      for (int64_t t : {1, 31, 63, 64, 100, 149}) {
        SCOPED_TRACE(cat(way, " past=", past, " token ", t));
        MlaCase changed = c;
        const int64_t E = c.sizes.R + c.sizes.Dr;
        std::fill_n(changed.caches[0].f32() + (past + t) * E, E, std::numeric_limits<float>::quiet_NaN());
        const OwnedTensor after = run(changed, way);
        EXPECT_TRUE(test::same_bits(after.view().rows(0, t), before.view().rows(0, t)));
        for (int64_t n = t; n < T; ++n) EXPECT_TRUE(std::isnan(after.view().row<float>(n)[0])) << n;
      }
    }
}

// One call for T tokens, or two for [0, cut) and [cut, T): the same bits.
TEST(Mla, BitsDoNotDependOnTheCut) {
  for (const char* way : kWays)
    for (DType cache : {DType::f32, DType::bf16}) {
      const int64_t past = 300, T = 260;
      MlaCase c({.H = 5, .cache = cache}, {{past, T}});
      const OwnedTensor whole = run(c, way);
      for (int64_t cut : {1, 3, 64, 100, 212, 259}) {
        SCOPED_TRACE(cat(way, " ", name_of(cache), " cut=", cut));
        const OwnedTensor parts = OwnedTensor::zeros({T, 5, 10});
        for (auto [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, T}}) {
          const OwnedTensor seq_start = OwnedTensor::ints({0, static_cast<int32_t>(end - begin)});
          MlaArgs args = c.args();
          const MlaSequence seq{args.seqs[0].blocks, past + begin};
          args.q = c.q.view().rows(begin, end), args.out = parts.view().rows(begin, end);
          args.seq_start = seq_start, args.seqs = &seq;
          test::run_plan(plan_of(way), args);
        }
        EXPECT_TRUE(test::same_bits(parts, whole));
      }
    }
}

TEST(Mla, BitsDoNotDependOnTheBatchOrThreads) {
  for (const std::string_view way : kWays) {
    std::vector<Seq> lengths = {{2000, 1}, {0, 100}, {33, 0}, {511, 2}};
    if (way == "simd_absorbed") lengths.push_back({33000, 1});  // more splits than tasks in flight
    MlaCase c({.H = 2}, lengths);
    const OwnedTensor together = run(c, way, 1);
    EXPECT_TRUE(test::same_bits(run(c, way, 2), together)) << way;
    EXPECT_TRUE(test::same_bits(run(c, way, 5), together)) << way;
    const int32_t* start = c.seq_start.i32();
    for (size_t b = 0; b < lengths.size(); ++b) {
      SCOPED_TRACE(cat(way, " sequence ", b));
      const OwnedTensor alone = OwnedTensor::zeros({lengths[b].now, 2, 10});
      const OwnedTensor seq_start = OwnedTensor::ints({0, static_cast<int32_t>(lengths[b].now)});
      MlaArgs args = c.args();
      args.q = c.q.view().rows(start[b], start[b + 1]), args.out = alone, args.seq_start = seq_start, args.seqs += b;
      test::run_plan(plan_of(way), args);
      EXPECT_TRUE(test::same_bits(alone, together.view().rows(start[b], start[b + 1])));
    }
  }
}

// With the model's widths the first token and long prompts go the expanded way, decode and short continuations the
// absorbed way.
TEST(Mla, TakesTheCheaperWay) {
  const Sizes s{.H = 1, .Dn = 128, .Dr = 64, .Dv = 128, .R = 512};
  const struct {
    Seq seq;
    const char* way;
  } cases[] = {{{0, 40}, "simd_expanded"},
               {{300, 1}, "simd_absorbed"},
               {{3000, 100}, "simd_absorbed"},
               {{3000, 200}, "simd_expanded"}};
  for (const auto& [seq, way] : cases) {
    SCOPED_TRACE(cat("past=", seq.past, " now=", seq.now));
    MlaCase c(s, {seq});
    const OwnedTensor chosen = run(c, "simd");
    EXPECT_TRUE(test::same_bits(chosen, run(c, way)));
    EXPECT_FALSE(test::same_bits(chosen, run(c, way == kWays[0] ? kWays[1] : kWays[0])))
        << "the ways cannot be told apart";
    for (const auto& [form, fixed] : {std::pair{MlaForm::absorbed, kWays[0]}, {MlaForm::expanded, kWays[1]}}) {
      const OwnedTensor out = OwnedTensor::zeros({seq.now, 1, 128});
      MlaArgs args = c.args();
      args.form = form, args.out = out;
      test::run_plan(plan_mla(args), args);
      EXPECT_TRUE(test::same_bits(out, run(c, fixed))) << fixed;
    }
  }
  MlaCase mixed(s, {{0, 40}, {300, 1}, {300, 0}, {200, 2}, {0, 30}, {5, 0}, {0, 3}});  // expanded: 0, 4, 6
  const OwnedTensor chosen = run(mixed, "simd"), absorbed = run(mixed, kWays[0]), expanded = run(mixed, kWays[1]);
  for (int64_t b = 0; b < 7; ++b) {
    const int64_t begin = mixed.seq_start.i32()[b], end = mixed.seq_start.i32()[b + 1];
    const OwnedTensor& want = b == 0 || b == 4 || b == 6 ? expanded : absorbed;
    EXPECT_TRUE(test::same_bits(chosen.view().rows(begin, end), want.view().rows(begin, end))) << "sequence " << b;
  }
}

// By blocks: the cuts at multiples of 64 positions change nothing, and what is left behind the last of them takes the cheaper way.
TEST(Mla, DividesSequencesAtBlocks) {
  const Sizes s{.H = 2, .Dn = 128, .Dr = 64, .Dv = 128, .R = 512};
  const auto by_block = [](MlaCase& c, int64_t begin, int64_t end, int64_t past) {
    const OwnedTensor out = OwnedTensor::zeros({end - begin, 2, 128});
    const OwnedTensor seq_start = OwnedTensor::ints({0, static_cast<int32_t>(end - begin)});
    MlaArgs args = c.args();
    MlaSequence seq = *args.seqs;
    seq.n_past = past + begin;
    args.q = c.q.view().rows(begin, end), args.out = out, args.seq_start = seq_start, args.seqs = &seq;
    args.form = MlaForm::by_block;
    test::run_plan(plan_mla(args), args);
    return out;
  };
  for (const auto& [seq, cut] :
       {std::pair{Seq{1000, 200}, 152}, {Seq{64, 70}, 64}, {Seq{640, 5}, 0}, {Seq{0, 37}, 0}, {Seq{0, 128}, 128}}) {
    SCOPED_TRACE(cat("past=", seq.past, " now=", seq.now));
    MlaCase c(s, {seq});
    const OwnedTensor whole = by_block(c, 0, seq.now, seq.past), expanded = run(c, "simd_expanded");
    EXPECT_TRUE(test::same_bits(whole.view().rows(0, cut), expanded.view().rows(0, cut)));
    const OwnedTensor& rest = seq.past == 0 ? expanded : run(c, "simd_absorbed");
    EXPECT_TRUE(test::same_bits(whole.view().rows(cut, seq.now), rest.view().rows(cut, seq.now)));
    for (int64_t at = 64 - seq.past % 64; at < seq.now; at += 64) {
      EXPECT_TRUE(test::same_bits(by_block(c, 0, at, seq.past), whole.view().rows(0, at))) << at;
      EXPECT_TRUE(test::same_bits(by_block(c, at, seq.now, seq.past), whole.view().rows(at, seq.now))) << at;
    }
  }
}

TEST(Mla, NamesWhatIsWrong) {
  MlaCase c({}, {{3, 2}, {0, 4}});
  const auto message = [&](auto change) {
    MlaArgs args = c.args();
    change(args);
    try {
      plan_mla(args);
    } catch (const InvalidArgument& e) { return std::string(e.what()); }
    return std::string("accepted");
  };
  const OwnedTensor over = OwnedTensor::ints({0, 2, 7}), back = OwnedTensor::ints({0, 8, 6});
  EXPECT_EQ(message([](MlaArgs&) {}), "accepted");
  EXPECT_EQ(message([](MlaArgs& a) { a.R = 0; }), "mla: R: expected at least 1, got 0");
  EXPECT_EQ(message([](MlaArgs& a) { a.Dr = 9; }), "mla: q: expected [-1, -1, 21] f32, got [6, 4, 20] f32");
  EXPECT_EQ(message([](MlaArgs& a) { a.Dv = 11; }), "mla: kv_b: expected [92, 24] f32, got [88, 24] f32");
  EXPECT_EQ(message([](MlaArgs& a) { a.cache_dtype = DType::f16; }), "mla: cache_dtype: expected f32 or bf16, got f16");
  EXPECT_EQ(message([&](MlaArgs& a) { a.seq_start = over; }),
            "mla: seq_start: expected offsets from 0 to 6, got [3] i32 from 0 to 7");
  EXPECT_EQ(message([&](MlaArgs& a) { a.seq_start = back; }), "mla: seq_start[2]: expected at least 8, got 6");
  EXPECT_EQ(message([](MlaArgs& a) { const_cast<MlaSequence*>(a.seqs)[1].blocks = nullptr; }),
            "mla: seqs[1].blocks: expected 1, got none at 0");
  c.seqs[1].n_past = -1;
  EXPECT_EQ(message([](MlaArgs&) {}), "mla: seqs[1].n_past: expected at least 0, got -1");
}

}  // namespace
}  // namespace linnet::ops
