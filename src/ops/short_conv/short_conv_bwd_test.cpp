// Gradient of the short convolution: the definition against central differences, the variants against the definition.
#include "ops/short_conv/short_conv_bwd.h"

#include <cmath>
#include <vector>

#include "support/compare.h"
#include "support/gradient.h"
#include "support/owned_tensor.h"

namespace linnet::ops {
namespace {

using test::OwnedTensor;
using test::Point;

enum class States { random, some_null, none };

// Packed sequences with states of their own.
struct ConvBwdCase {
  OwnedTensor x, weight, seq_start, dy, dx, dweight;
  std::vector<OwnedTensor> states;
  std::vector<const float*> pointers;
  bool silu = true, has_states = true;

  ConvBwdCase(const std::vector<int32_t>& lengths, int64_t C, int64_t W, States kind = States::random) {
    std::vector<int32_t> starts = {0};
    for (int32_t n : lengths) starts.push_back(starts.back() + n);
    const int64_t N = starts.back();
    seq_start = OwnedTensor::ints(starts);
    x = OwnedTensor::normal({N, C}, 1);
    weight = OwnedTensor::normal({C, W}, 2, 0.5);
    dy = OwnedTensor::normal({N, C}, 3);
    dx = OwnedTensor::normal({N, C}, 4);
    dweight = OwnedTensor::normal({C, W}, 5);
    has_states = kind != States::none;
    for (size_t b = 0; b < lengths.size(); ++b) {
      states.push_back(OwnedTensor::normal({W - 1, C}, 6 + b));
      pointers.push_back(kind == States::some_null && b % 2 == 0 ? nullptr : states.back().f32());
    }
  }

  ShortConvBwdArgs args() const {
    return {.x = x,
            .weight = weight,
            .seq_start = seq_start,
            .state = has_states ? pointers.data() : nullptr,
            .dy = dy,
            .dx = dx,
            .dweight = dweight,
            .silu = silu};
  }
};

// sum dy y in double; p: x, weight.
double loss_of(const ConvBwdCase& c, const Point& p) {
  const int64_t C = c.x.view()[1], W = c.weight.view()[1];
  double loss = 0;
  for (size_t b = 0; b < c.states.size(); ++b) {
    const int64_t begin = c.seq_start.i32()[b], end = c.seq_start.i32()[b + 1];
    for (int64_t t = begin; t < end; ++t)
      for (int64_t channel = 0; channel < C; ++channel) {
        double sum = 0;
        for (int64_t j = 0; j < W; ++j) {
          const int64_t from = t - (W - 1) + j, row = from - begin + W - 1;
          double input = 0;
          if (from >= begin) input = p[0][static_cast<size_t>(from * C + channel)];
          else if (c.has_states && c.pointers[b]) input = c.pointers[b][row * C + channel];
          sum += p[1][static_cast<size_t>(channel * W + j)] * input;
        }
        loss += c.dy.f32()[t * C + channel] * (c.silu ? sum / (1 + std::exp(-sum)) : sum);
      }
  }
  return loss;
}

TEST(ShortConvBwd, ReferenceIsTheSlopeOfItsForward) {
  for (int64_t W : {1, 2, 4, 8})
    for (States kind : {States::random, States::some_null, States::none})
      for (bool silu : {false, true}) {
        SCOPED_TRACE(cat("W=", W, " states=", static_cast<int>(kind), " silu=", silu));
        ConvBwdCase c({5, 0, 1, 12}, 3, W, kind);
        c.silu = silu;
        c.dweight = OwnedTensor::zeros({3, W});
        short_conv_ref_bwd(c.args());
        EXPECT_TRUE(test::gradient_close({{"x", c.x, c.dx}, {"weight", c.weight, c.dweight}},
                                         [&](const Point& p) { return loss_of(c, p); }));
      }
}

// a: W + 1 roundings of partial sums below 10, so 5e-6; silu'' <= 0.5 and |dy| < 5 make 1.2e-5 of it, sigmoid and the product 5e-6;
// sum |weight| < 8 * 0.5 at worst. On average far less: the row.
constexpr test::Tolerance kTolerance{.abs = 6e-5, .rel = 1e-6, .row_rel = 2e-6, .why = "W + 1 roundings, twice"};

test::Tolerance weight_tolerance(int64_t n_tokens) {  // terms |da x| of about 1, each da as above
  const double block = static_cast<double>(std::max<int64_t>(32, n_tokens / 32));
  return {.abs = (1 + static_cast<double>(n_tokens)) * ((block + 10) * 6e-8 + 1e-6),
          .why = "a block's tokens + 10 roundings"};
}

void expect_as_reference(const ConvBwdCase& c, int64_t C, int64_t W) {
  const int64_t N = c.x.view()[0];
  const OwnedTensor dx = OwnedTensor::zeros({N, C}), dweight = c.dweight;
  ShortConvBwdArgs args = c.args();
  args.dx = dx, args.dweight = dweight;
  short_conv_ref_bwd(args);
  args = c.args();
  test::run_plan(plan_short_conv_bwd(args), args);
  EXPECT_TRUE(test::close(c.dx, dx, kTolerance));
  EXPECT_TRUE(
      test::close(c.dweight.view().reshaped({1, C * W}), dweight.view().reshaped({1, C * W}), weight_tolerance(N)));
}

TEST(ShortConvBwd, MatchesReference) {
  // Blocks of 32 tokens: sequences end before, at and behind a block's end, within W - 1 tokens of it, and span several.
  const std::vector<std::vector<int32_t>> batches = {
      {}, {0}, {1}, {2, 0, 3}, {0, 5, 1, 0, 9}, {31, 2, 31}, {32, 32}, {33, 0, 1, 29}, {30, 1, 1, 1, 35}, {200}};
  for (const auto& lengths : batches)
    for (int64_t C : {1, 19, 64, 300})
      for (int64_t W : {1, 2, 3, 4, 5, 6, 7, 8})
        for (bool silu : {false, true}) {
          SCOPED_TRACE(cat("B=", lengths.size(), " C=", C, " W=", W, " silu=", silu));
          ConvBwdCase c(lengths, C, W);
          c.silu = silu;
          expect_as_reference(c, C, W);
        }
}

TEST(ShortConvBwd, MatchesReferenceInLargeBlocksAndWithoutStates) {
  expect_as_reference(ConvBwdCase({700, 0, 800}, 5, 4), 5, 4);  // blocks of 47 tokens
  for (States kind : {States::some_null, States::none})
    for (int64_t W : {2, 4, 8}) expect_as_reference(ConvBwdCase({1, 3, 0, 40}, 33, W, kind), 33, W);
}

TEST(ShortConvBwd, StridedRows) {
  ConvBwdCase c({5, 0, 8, 30}, 20, 4);
  const OwnedTensor want_dweight = c.dweight;
  const OwnedTensor wide_x = OwnedTensor::normal({43, 31}, 9), wide_dy = OwnedTensor::normal({43, 29}, 10);
  const OwnedTensor wide_dx = OwnedTensor::zeros({43, 33}), wide_weight = OwnedTensor::normal({20, 7}, 11);
  const Tensor dx = wide_dx.view().columns(5, 25);
  ShortConvBwdArgs args = c.args();
  args.x = wide_x.view().columns(3, 23), args.dy = wide_dy.view().columns(1, 21),
  args.weight = wide_weight.view().columns(2, 6);
  ShortConvBwdArgs want = args;
  args.dx = dx, want.dweight = want_dweight;
  test::run_plan(plan_short_conv_bwd(args), args);
  short_conv_ref_bwd(want);
  EXPECT_TRUE(test::close(dx, c.dx, kTolerance));
  EXPECT_TRUE(test::close(c.dweight, want_dweight, weight_tolerance(43)));
  for (int64_t n = 0; n < 43; ++n)  // nothing written beside the view
    for (int64_t at : {0, 4, 25, 32}) EXPECT_EQ(wide_dx.f32()[n * 33 + at], 0) << n << ", " << at;
}

TEST(ShortConvBwd, SequencesDoNotSeeEachOther) {
  ConvBwdCase c({6, 6}, 24, 4), other = c;
  for (int64_t i = 6 * 24; i < 12 * 24; ++i) other.x.f32()[i] += 1, other.dy.f32()[i] += 1;  // the second sequence only
  const ShortConvBwdArgs args = c.args(), other_args = other.args();
  test::run_plan(plan_short_conv_bwd(args), args);
  test::run_plan(plan_short_conv_bwd(other_args), other_args);
  EXPECT_TRUE(test::same_bits(c.dx.view().rows(0, 6), other.dx.view().rows(0, 6)));
  EXPECT_FALSE(test::same_bits(c.dx.view().rows(6, 12), other.dx.view().rows(6, 12)));
}

TEST(ShortConvBwd, BitsDoNotDependOnThreads) {
  const ConvBwdCase one({150, 0, 700, 1, 349}, 600, 4), two = one, three = one;
  for (const auto& [c, threads] : {std::pair{&one, 1}, std::pair{&two, 2}, std::pair{&three, 3}}) {
    ShortConvBwdArgs args = c->args();
    test::run_plan(plan_short_conv_bwd(args), args, threads);
    EXPECT_TRUE(test::same_bits(c->dx, one.dx)) << threads;
    EXPECT_TRUE(test::same_bits(c->dweight, one.dweight)) << threads;
  }
}

TEST(ShortConvBwd, NamesWhatIsWrong) {
  const ConvBwdCase c({3, 4}, 5, 4);
  const auto message = [&](auto change) {
    ShortConvBwdArgs args = c.args();
    change(args);
    try {
      plan_short_conv_bwd(args);
    } catch (const InvalidArgument& e) { return std::string(e.what()); }
    return std::string("accepted");
  };
  const OwnedTensor nine = OwnedTensor::zeros({5, 9}), over = OwnedTensor::ints({0, 3, 8});
  EXPECT_EQ(message([](ShortConvBwdArgs&) {}), "accepted");
  EXPECT_EQ(message([](ShortConvBwdArgs& a) { a.state = nullptr; }), "accepted");
  EXPECT_EQ(message([&](ShortConvBwdArgs& a) { a.weight = nine; }),
            "short_conv_bwd: weight: expected 1 to 8 taps, got [5, 9] f32");
  EXPECT_EQ(message([&](ShortConvBwdArgs& a) { a.seq_start = over; }),
            "short_conv_bwd: seq_start: expected offsets from 0 to 7, got [3] i32 from 0 to 8");
  EXPECT_EQ(message([&](ShortConvBwdArgs& a) { a.dweight = nine.view().columns(0, 4); }),
            "short_conv_bwd: dweight: expected dense rows, got a row stride of 9");
  EXPECT_EQ(message([&](ShortConvBwdArgs& a) { a.dx = c.dy; }),
            "short_conv_bwd: dx: expected memory other than x's and dy's, got the same");
}

}  // namespace
}  // namespace linnet::ops
