// Short causal convolution against its definition, and its bits across cuts of a sequence, threads and neighbours.
#include "ops/short_conv/short_conv.h"

#include <vector>

#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;

// Packed sequences with states of their own.
struct ConvCase {
  OwnedTensor x, weight, seq_start, y;
  std::vector<OwnedTensor> states;
  std::vector<float*> pointers;
  bool silu = true;

  ConvCase(const std::vector<int32_t>& lengths, int64_t C, int64_t W, uint64_t seed = 1) {
    std::vector<int32_t> starts = {0};
    for (int32_t n : lengths) starts.push_back(starts.back() + n);
    const int64_t N = starts.back();
    seq_start = OwnedTensor::ints(starts);
    x = OwnedTensor::normal({N, C}, seed, 2);
    weight = OwnedTensor::normal({C, W}, seed + 1);
    y = OwnedTensor::zeros({N, C});
    for (size_t b = 0; b < lengths.size(); ++b) states.push_back(OwnedTensor::normal({W - 1, C}, seed + 2 + b, 2));
  }
  ConvCase(const ConvCase& o)
      : x(o.x), weight(o.weight), seq_start(o.seq_start), y(o.y), states(o.states), silu(o.silu) {}

  ShortConvArgs args() {
    pointers.clear();
    for (const OwnedTensor& s : states) pointers.push_back(s.f32());
    return {.x = x, .weight = weight, .seq_start = seq_start, .state = pointers.data(), .y = y, .silu = silu};
  }
};

// At most 8 products of about N(0, 2^2) values, partial sums below 60 here: 9 roundings of 60 * 2^-24, then silu (slope
// <= 1.1, 6 roundings of the result).
constexpr test::Tolerance kTolerance{
    .abs = 4e-5, .rel = 6e-7, .row_rel = 2e-6, .why = "W + 1 roundings of partial sums"};

void run(ConvCase& c, int n_threads = 2) {
  const ShortConvArgs args = c.args();
  test::run_plan(plan_short_conv(args), args, n_threads);
}

TEST(ShortConv, MatchesReference) {
  const std::vector<std::vector<int32_t>> batches = {{},    {0},       {1}, {2, 0, 3}, {0, 5, 1, 0, 9}, {63, 64, 65, 0},
                                                     {200}, {63, 2, 3}};
  for (const auto& lengths : batches)
    for (int64_t C : {1, 7, 16, 19, 256, 300})
      for (int64_t W : {1, 2, 3, 4, 5, 6, 7, 8})
        for (bool silu : {false, true}) {
          SCOPED_TRACE(cat("B=", lengths.size(), " C=", C, " W=", W, " silu=", silu));
          ConvCase got(lengths, C, W);
          got.silu = silu;
          ConvCase want = got;
          run(got);
          short_conv_ref(want.args());
          EXPECT_TRUE(test::close(got.y, want.y, kTolerance));
          for (size_t b = 0; b < lengths.size(); ++b) EXPECT_TRUE(test::same_bits(got.states[b], want.states[b]));
        }
}

TEST(ShortConv, StridedRows) {
  ConvCase c({5, 0, 8}, 20, 4);
  ConvCase want = c;
  const OwnedTensor wide_y = OwnedTensor::zeros({13, 31}), wide_x = OwnedTensor::normal({13, 31}, 9);
  Tensor x = wide_x.view(), y = wide_y.view();
  x.shape[1] = y.shape[1] = 20, x.data += 3 * 4, y.data += 5 * 4;
  ShortConvArgs args = c.args(), want_args = want.args();
  args.x = x, args.y = y, want_args.x = x;
  test::run_plan(plan_short_conv(args), args);
  short_conv_ref(want_args);
  EXPECT_TRUE(test::close(y, want.y, kTolerance));
  for (int64_t n = 0; n < 13; ++n)  // nothing written beside the view
    for (int64_t c0 : {0, 4, 25, 30}) EXPECT_EQ(wide_y.f32()[n * 31 + c0], 0) << n << ", " << c0;
}

TEST(ShortConv, BitsDoNotDependOnTheCut) {
  for (int64_t W : {2, 4, 8}) {
    const int64_t C = 37, T = 21;
    ConvCase whole({static_cast<int32_t>(T)}, C, W);
    const ConvCase before = whole;
    run(whole);
    for (int64_t cut = 0; cut <= T; ++cut) {
      SCOPED_TRACE(cat("W=", W, " cut=", cut));
      ConvCase parts = before;
      for (auto [begin, end] : {std::pair{int64_t{0}, cut}, std::pair{cut, T}}) {
        const OwnedTensor seq_start = OwnedTensor::ints({0, static_cast<int32_t>(end - begin)});
        ShortConvArgs args = parts.args();
        args.x = parts.x.view().rows(begin, end), args.y = parts.y.view().rows(begin, end), args.seq_start = seq_start;
        test::run_plan(plan_short_conv(args), args);
      }
      EXPECT_TRUE(test::same_bits(parts.y, whole.y));
      EXPECT_TRUE(test::same_bits(parts.states[0], whole.states[0]));
    }
  }
}

TEST(ShortConv, BitsDoNotDependOnThreads) {
  ConvCase one({150, 0, 70, 1}, 600, 4);
  ConvCase three = one;
  run(one, 1);
  run(three, 3);
  EXPECT_TRUE(test::same_bits(one.y, three.y));
  for (size_t b = 0; b < one.states.size(); ++b) EXPECT_TRUE(test::same_bits(one.states[b], three.states[b]));
}

TEST(ShortConv, SequencesDoNotSeeEachOther) {
  ConvCase c({6, 6}, 24, 4);
  ConvCase other = c;
  for (int64_t i = 0; i < 6 * 24; ++i) other.x.f32()[i] += 1;  // the first sequence only
  run(c);
  run(other);
  EXPECT_TRUE(test::same_bits(c.y.view().rows(6, 12), other.y.view().rows(6, 12)));
  EXPECT_FALSE(test::same_bits(c.y.view().rows(0, 6), other.y.view().rows(0, 6)));
}

TEST(ShortConv, OneTapNeedsNoState) {
  ConvCase c({4}, 5, 1);
  ShortConvArgs args = c.args();
  args.state = nullptr;
  test::run_plan(plan_short_conv(args), args);
  ConvCase want = c;
  short_conv_ref(want.args());
  EXPECT_TRUE(test::close(c.y, want.y, kTolerance));
}

TEST(ShortConv, NamesWhatIsWrong) {
  ConvCase c({3, 4}, 5, 4);
  const auto message = [&](auto change) {
    ShortConvArgs args = c.args();
    change(args);
    try {
      plan_short_conv(args);
    } catch (const InvalidArgument& e) { return std::string(e.what()); }
    return std::string("accepted");
  };
  const OwnedTensor nine = OwnedTensor::zeros({5, 9}), late = OwnedTensor::ints({1, 3, 7});
  const OwnedTensor back = OwnedTensor::ints({0, 9, 7}), over = OwnedTensor::ints({0, 3, 8});
  EXPECT_EQ(message([](ShortConvArgs&) {}), "accepted");
  EXPECT_EQ(message([&](ShortConvArgs& a) { a.weight = nine; }),
            "short_conv: weight: expected 1 to 8 taps, got [5, 9] f32");
  EXPECT_EQ(message([&](ShortConvArgs& a) { a.seq_start = late; }),
            "short_conv: seq_start: expected offsets from 0 to 7, got [3] i32 from 1 to 7");
  EXPECT_EQ(message([&](ShortConvArgs& a) { a.seq_start = over; }),
            "short_conv: seq_start: expected offsets from 0 to 7, got [3] i32 from 0 to 8");
  EXPECT_EQ(message([&](ShortConvArgs& a) { a.seq_start = back; }),
            "short_conv: seq_start[2]: expected at least 9, got 7");
  EXPECT_EQ(message([&](ShortConvArgs& a) { a.state = nullptr; }),
            "short_conv: state: expected a pointer for each sequence, got none");
}

}  // namespace
}  // namespace linnet::ops
