// Builds and runs the cases of linear_attn_case.h, and checks that the hard ones hold what they promise.
#include "ops/linear_attn/linear_attn_case.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/text.h"

namespace linnet::linear_attn_test {
namespace {

using ops::Decay;

// [N, heads, D], with room between rows when strided. Values by flat index of the dense tensor.
OwnedTensor rows(const CaseSpec& spec, int64_t N, int64_t width, const std::function<double(int64_t)>& value) {
  const int64_t stride = spec.strided ? width + 5 : width;
  return OwnedTensor::filled({N, stride}, [&](int64_t i) {
    return i % stride < width ? value(i / stride * width + i % stride) : std::numeric_limits<double>::quiet_NaN();
  });
}

// The view [N, a, b] (or [N, a] when b is 0) of rows made above.
template <class View>
View shaped(const View& memory, int64_t a, int64_t b) {
  View t = memory;
  t.rank = b > 0 ? 3 : 2;
  t.shape[1] = a, t.shape[2] = b;
  return t;
}

double gate_value(Gate gate, const Rng& rng, int64_t n, int64_t i) {
  const auto at = static_cast<uint64_t>(i);
  const double u = rng.uniform(3 * at);
  const bool struck = n % 5 == 3 && rng.uniform(3 * at + 1) < 0.4;
  switch (gate) {
    case Gate::zero: return 0;
    case Gate::weak: return -0.02 * u;
    case Gate::softplus: return -(1 + 15 * u) * std::log1p(std::exp(rng.normal(3 * at + 2) * 2 - 5));
    case Gate::strong: return -4 - 2 * u;
    case Gate::mixed: return -std::pow(10, -4 + 5.5 * u);
    case Gate::cliff: return struck ? -200 : -0.02 * u;
    case Gate::minus_inf: return struck ? -std::numeric_limits<double>::infinity() : -0.02 * u;
  }
  return 0;
}

// Unit vectors of [heads, D] rows; token n, head h.
OwnedTensor unit_rows(const CaseSpec& spec, int64_t N, uint64_t seed, Keys kind) {
  const int64_t D = spec.Dk, width = spec.Hk * D;
  std::vector<double> x(static_cast<size_t>(N * width));
  const Rng rng(seed);
  for (int64_t i = 0; i < N * width; ++i)
    x[i] = rng.normal(static_cast<uint64_t>(kind == Keys::identical ? i % width : i));
  for (int64_t row = 0; row < N * spec.Hk; ++row) {
    double norm = 0;
    for (int64_t d = 0; d < D; ++d) norm += x[row * D + d] * x[row * D + d];
    const double factor = kind == Keys::some_zero && row / spec.Hk % 3 == 0 ? 0 : 1 / std::sqrt(norm);
    for (int64_t d = 0; d < D; ++d) x[row * D + d] *= factor;
  }
  return rows(spec, N, width, [&](int64_t i) { return x[i]; });
}

Tensor piece(const Tensor& t, int64_t first, int64_t count) { return t.rows(first, first + count); }

}  // namespace

std::string text_of(const CaseSpec& s) {
  const char* decays[] = {"none", "per_head", "per_token", "per_channel"};
  const char* gates[] = {"zero", "weak", "softplus", "strong", "mixed", "cliff", "minus_inf"};
  const char* keys[] = {"random", "identical", "some_zero"};
  const char* betas[] = {"random", "absent", "zero", "one"};
  const std::vector<int64_t> lengths(s.lengths.begin(), s.lengths.end());
  return cat("lengths ", shape_text(lengths), " H ", s.H, " Hk ", s.Hk, " Dk ", s.Dk, " Dv ", s.Dv, " decay ",
             decays[static_cast<int>(s.decay)], " delta ", s.delta, " gate ", gates[static_cast<int>(s.gate)], " keys ",
             keys[static_cast<int>(s.keys)], " beta ", betas[static_cast<int>(s.beta)], " strided ", s.strided,
             " seed ", s.seed);
}

Case::Case(const CaseSpec& s) : spec(s), N(std::accumulate(s.lengths.begin(), s.lengths.end(), int64_t{0})) {
  q = unit_rows(s, N, s.seed * 10 + 1, Keys::random);
  k = unit_rows(s, N, s.seed * 10 + 2, s.keys);
  const Rng rng_v(s.seed * 10 + 3), rng_g(s.seed * 10 + 4), rng_b(s.seed * 10 + 5);
  v = rows(s, N, s.H * s.Dv, [&](int64_t i) { return rng_v.normal(static_cast<uint64_t>(i)); });
  const int64_t gate_width = s.decay == Decay::per_channel ? s.H * s.Dk : s.H;
  const auto gate_at = [&](int64_t i) { return gate_value(s.gate, rng_g, i / gate_width, i); };
  if (s.decay == Decay::per_head) log_decay = OwnedTensor::filled({s.H}, gate_at);
  else if (s.decay != Decay::none) log_decay = rows(s, N, gate_width, gate_at);
  if (s.beta != Beta::absent)
    beta = rows(s, N, s.H, [&](int64_t i) {
      return s.beta == Beta::zero ? 0 : s.beta == Beta::one ? 1 : rng_b.uniform(static_cast<uint64_t>(i));
    });
  for (size_t b = 0; b < s.lengths.size(); ++b)
    initial.push_back(OwnedTensor::normal({s.H, s.Dk, s.Dv}, s.seed * 1000 + b));
}

ops::LinearAttnArgs Case::args(const Tensor& out, const std::vector<OwnedTensor>& states, Pointers& pointers,
                               int64_t first, int64_t count) const {
  std::vector<int32_t> start = {0};
  if (count < 0) {
    for (int length : spec.lengths) start.push_back(start.back() + length);
    count = N;
  } else {
    start.push_back(static_cast<int32_t>(count));
  }
  pointers.seq_start = OwnedTensor::ints(start);
  pointers.states.clear();
  for (const OwnedTensor& s : states) pointers.states.push_back(s.f32());
  ops::LinearAttnArgs a;
  a.q = shaped(piece(q, first, count), spec.Hk, spec.Dk);
  a.k = shaped(piece(k, first, count), spec.Hk, spec.Dk);
  a.v = shaped(piece(v, first, count), spec.H, spec.Dv);
  if (spec.decay == Decay::per_channel) a.log_decay = shaped(piece(log_decay, first, count), spec.H, spec.Dk);
  else if (spec.decay == Decay::per_token) a.log_decay = shaped(piece(log_decay, first, count), spec.H, 0);
  else if (spec.decay == Decay::per_head) a.log_decay = log_decay.view();
  if (spec.beta != Beta::absent) a.beta = shaped(piece(beta, first, count), spec.H, 0);
  a.seq_start = pointers.seq_start;
  a.state = pointers.states.data();
  a.out = shaped(piece(out, first, count), spec.H, spec.Dv);
  a.scale = 0.7f;
  a.decay = spec.decay;
  a.delta = spec.delta;
  a.form = spec.form;
  pointers.n_past.assign(states.size(), first), a.n_past = pointers.n_past.data();
  return a;
}

namespace {

// Rows of out are prefilled, so that an element never written is seen.
Result blank(const Case& c) {
  return {rows(c.spec, c.N, c.spec.H * c.spec.Dv, [](int64_t) { return 12345; }), c.initial};
}

}  // namespace

Result run_reference(const Case& c) {
  Result r = blank(c);
  Case::Pointers pointers;
  ops::linear_attn_ref(c.args(r.out, r.states, pointers));
  return r;
}

Result run_variant(const Case& c, int n_threads) {
  Result r = blank(c);
  Case::Pointers pointers;
  const ops::LinearAttnArgs a = c.args(r.out, r.states, pointers);
  test::run_plan(ops::plan_linear_attn(a), a, n_threads);
  return r;
}

Result run_pieces(const Case& c, const std::vector<int64_t>& pieces, int n_threads) {
  Result r = blank(c);
  int64_t first = 0;
  for (int64_t count : pieces) {
    Case::Pointers pointers;
    const ops::LinearAttnArgs a = c.args(r.out, r.states, pointers, first, count);
    test::run_plan(ops::plan_linear_attn(a), a, n_threads);
    first += count;
  }
  return r;
}

double magnitude(const Case& c) {
  const int64_t H = c.spec.H, Dk = c.spec.Dk, Dv = c.spec.Dv;
  double largest = 0;
  const auto visit = [&](const OwnedTensor& state) {
    for (int64_t h = 0; h < H; ++h)
      for (int64_t j = 0; j < Dv; ++j) {
        double sum = 0;
        for (int64_t d = 0; d < Dk; ++d) {
          const double s = state.f32()[(h * Dk + d) * Dv + j];
          sum += s * s;
        }
        largest = std::max(largest, std::sqrt(sum));
      }
  };
  Case whole = c;
  int64_t first = 0;
  for (size_t b = 0; b < c.spec.lengths.size(); ++b) {
    Result r{blank(c).out, {c.initial[b]}};
    visit(r.states[0]);
    for (int64_t n = first; n < first + c.spec.lengths[b]; ++n) {
      Case::Pointers pointers;
      ops::linear_attn_ref(whole.args(r.out, r.states, pointers, n, 1));
      visit(r.states[0]);
    }
    first += c.spec.lengths[b];
  }
  return largest + 4;  // |v| of a normal variable
}

test::Tolerance tolerance_of(const Case& c) {
  const double longest = c.spec.lengths.empty() ? 0 : *std::max_element(c.spec.lengths.begin(), c.spec.lengths.end());
  const double unit = 0x1p-24;  // rounding unit of f32
  test::Tolerance t;
  t.abs = 4 * unit * std::sqrt(longest + static_cast<double>(c.spec.Dk)) * magnitude(c);
  t.why =
      "With |k| = |q| = 1, beta <= 1 and decays <= 1 a token maps a state error to one no longer, so the roundings of "
      "all tokens "
      "add up: each is at most unit * magnitude; T tokens, and sums over Dk channels, grow as a square root; factor 4";
  return t;
}

void expect_close(const Result& got, const Result& want, const Case& c) {
  const test::Tolerance tolerance = tolerance_of(c);
  const auto heads = [&](const OwnedTensor& out) { return shaped(out.view(), c.spec.H, c.spec.Dv); };
  EXPECT_TRUE(test::close(heads(got.out), heads(want.out), tolerance)) << text_of(c.spec);
  for (size_t b = 0; b < got.states.size(); ++b)
    EXPECT_TRUE(test::close(got.states[b], want.states[b], tolerance)) << "state " << b << " of " << text_of(c.spec);
}

void expect_same_bits(const Result& got, const Result& want) {
  EXPECT_TRUE(test::same_bits(got.out, want.out));
  for (size_t b = 0; b < got.states.size(); ++b)
    EXPECT_TRUE(test::same_bits(got.states[b], want.states[b])) << "state " << b;
}

TEST(linear_attn_case, hard_gates_hold_what_they_promise) {
  const auto count = [](Gate gate, auto&& predicate) {
    const Case c({.gate = gate});
    const float* g = c.log_decay.f32();
    return std::count_if(g, g + c.log_decay.view().elements(), predicate);
  };
  EXPECT_GT(count(Gate::cliff, [](float g) { return g == -200; }), 100);
  EXPECT_GT(count(Gate::minus_inf, [](float g) { return std::isinf(g) && g < 0; }), 100);
  EXPECT_GT(count(Gate::mixed, [](float g) { return g < -5; }), 100);
  EXPECT_GT(count(Gate::mixed, [](float g) { return g > -0.01f; }), 100);
  for (Gate gate : {Gate::zero, Gate::weak, Gate::softplus, Gate::strong, Gate::mixed, Gate::cliff, Gate::minus_inf})
    EXPECT_EQ(count(gate, [](float g) { return !(g <= 0); }), 0);
}

}  // namespace linnet::linear_attn_test
