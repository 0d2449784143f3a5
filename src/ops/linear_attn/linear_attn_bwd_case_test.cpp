// Builds and runs the cases of linear_attn_bwd_case.h, and says how close two sets of gradients must be.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/text.h"
#include "ops/linear_attn/linear_attn_bwd_case.h"

namespace linnet::linear_attn_test {
namespace {

using ops::Decay;

constexpr double kUntouched = 12345;

// [N, width] with room between rows when the case is strided.
OwnedTensor rows(const CaseSpec& spec, int64_t N, int64_t width, const std::function<double(int64_t)>& value) {
  const int64_t stride = spec.strided ? width + 5 : width;
  return OwnedTensor::filled({N, stride},
                             [&](int64_t i) { return value(i / stride * width + std::min(i % stride, width - 1)); });
}

Tensor shaped(const OwnedTensor& memory, int64_t a, int64_t b) {
  Tensor t = memory.view();
  if (!t) return t;
  t.rank = b > 0 ? 3 : 2;
  t.shape[1] = a, t.shape[2] = b;
  return t;
}

// The part of a gradient's memory that is the gradient.
Tensor gradient(const OwnedTensor& memory, int64_t width) {
  Tensor t = memory.view();
  if (t.rank == 2) t.shape[1] = width;
  return t;
}

double largest(const ConstTensor& t) {
  double x = 0;
  for (int64_t n = 0; n < t[0]; ++n)
    for (int64_t i = 0; i < t.row_elements(); ++i) x = std::max(x, double{std::abs(t.row<float>(n)[i])});
  return x;
}

}  // namespace

BwdCase::BwdCase(const CaseSpec& s) : forward(s) {
  const Rng rng(s.seed * 10 + 6);
  dout = rows(s, forward.N, s.H * s.Dv, [&](int64_t i) { return rng.normal(static_cast<uint64_t>(i)); });
  for (size_t b = 0; b < s.lengths.size(); ++b)
    finals.push_back(OwnedTensor::normal({s.H, s.Dk, s.Dv}, s.seed * 1000 + 500 + b));
}

Gradients BwdCase::blank() const {
  const CaseSpec& s = forward.spec;
  const auto untouched = [](int64_t) { return kUntouched; };
  Gradients g;
  g.dq = rows(s, forward.N, s.Hk * s.Dk, untouched);
  g.dk = rows(s, forward.N, s.Hk * s.Dk, untouched);
  g.dv = rows(s, forward.N, s.H * s.Dv, untouched);
  if (wants_all) {
    if (s.decay == Decay::per_head) g.dlog_decay = OwnedTensor::filled({s.H}, untouched);
    else if (s.decay != Decay::none)
      g.dlog_decay = rows(s, forward.N, s.decay == Decay::per_channel ? s.H * s.Dk : s.H, untouched);
    g.dbeta = rows(s, forward.N, s.H, untouched);
  }
  if (with_states) g.dstates = finals;
  return g;
}

ops::LinearAttnBwdArgs BwdCase::args(const Gradients& to, Pointers& pointers) const {
  const CaseSpec& s = forward.spec;
  const ops::LinearAttnArgs f = forward.args(forward.v, forward.initial, pointers.forward);
  pointers.dstates.clear();
  for (const OwnedTensor& d : to.dstates) pointers.dstates.push_back(d.f32());
  ops::LinearAttnBwdArgs a;
  a.q = f.q, a.k = f.k, a.v = f.v, a.log_decay = f.log_decay, a.beta = f.beta, a.seq_start = f.seq_start;
  a.state = with_states ? f.state : nullptr;
  a.dout = shaped(dout, s.H, s.Dv);
  a.dstate = with_states ? pointers.dstates.data() : nullptr;
  a.dq = shaped(to.dq, s.Hk, s.Dk), a.dk = shaped(to.dk, s.Hk, s.Dk), a.dv = shaped(to.dv, s.H, s.Dv);
  a.dlog_decay = to.dlog_decay.view();
  if (s.decay == Decay::per_token) a.dlog_decay = shaped(to.dlog_decay, s.H, 0);
  if (s.decay == Decay::per_channel) a.dlog_decay = shaped(to.dlog_decay, s.H, s.Dk);
  a.dbeta = shaped(to.dbeta, s.H, 0);
  a.scale = f.scale, a.decay = f.decay, a.delta = f.delta;
  return a;
}

Gradients run_reference(const BwdCase& c) {
  Gradients g = c.blank();
  BwdCase::Pointers pointers;
  ops::linear_attn_ref_bwd(c.args(g, pointers));
  return g;
}

Gradients run_variant(const BwdCase& c, int n_threads) {
  Gradients g = c.blank();
  BwdCase::Pointers pointers;
  const ops::LinearAttnBwdArgs a = c.args(g, pointers);
  test::run_plan(ops::plan_linear_attn_bwd(a), a, n_threads);
  return g;
}

void expect_same_bits(const Gradients& got, const Gradients& want) {
  EXPECT_TRUE(test::same_bits(got.dq, want.dq)) << "dq";
  EXPECT_TRUE(test::same_bits(got.dk, want.dk)) << "dk";
  EXPECT_TRUE(test::same_bits(got.dv, want.dv)) << "dv";
  const auto expect_same = [](const OwnedTensor& g, const OwnedTensor& w, const char* name) {
    if (w.view()) { EXPECT_TRUE(test::same_bits(g, w)) << name; }
  };
  expect_same(got.dlog_decay, want.dlog_decay, "dlog_decay");
  expect_same(got.dbeta, want.dbeta, "dbeta");
  for (size_t b = 0; b < got.dstates.size(); ++b)
    EXPECT_TRUE(test::same_bits(got.dstates[b], want.dstates[b])) << "dstate " << b;
}

void expect_close(const Gradients& got, const Gradients& want, const BwdCase& c) {
  const CaseSpec& s = c.forward.spec;
  const double T = s.lengths.empty() ? 0 : *std::max_element(s.lengths.begin(), s.lengths.end());
  const double growth = std::sqrt(T + static_cast<double>(s.Dk + s.Dv)) + (s.delta ? 0 : T / 8);
  const auto expect = [&](const char* name, const Tensor& g, const Tensor& w, double scale = 0) {
    if (!w || w.elements() == 0) return;
    test::Tolerance t;
    t.abs = 4 * 0x1p-24 * growth * std::max(scale, largest(w));
    t.why =
        "|k| = |q| = 1, beta <= 1, decays <= 1: a token lengthens neither a state nor its gradient, so roundings of T "
        "tokens and of sums over channels add up as a square root; factor 4. Without delta nothing corrects a decay, "
        "whose rounding by 2^-25 may be the same at every token: T / 2 units. Relative to the largest gradient";
    EXPECT_TRUE(test::close(g, w, t)) << name << " of " << text_of(s);
  };
  expect("dq", shaped(got.dq, s.Hk, s.Dk), shaped(want.dq, s.Hk, s.Dk));
  expect("dk", shaped(got.dk, s.Hk, s.Dk), shaped(want.dk, s.Hk, s.Dk));
  expect("dv", shaped(got.dv, s.H, s.Dv), shaped(want.dv, s.H, s.Dv));
  if (want.dlog_decay.view()) {
    const int64_t width = s.decay == Decay::per_channel ? s.H * s.Dk : s.H;
    // One number for all N tokens of a head: the terms of N tokens may cancel, so what it is relative to is sqrt(N) larger.
    const double terms = s.decay == Decay::per_head ? std::sqrt(static_cast<double>(c.forward.N)) : 1;
    expect("dlog_decay", gradient(got.dlog_decay, width), gradient(want.dlog_decay, width),
           terms * largest(gradient(want.dlog_decay, width)));
  }
  if (want.dbeta.view()) expect("dbeta", gradient(got.dbeta, s.H), gradient(want.dbeta, s.H));
  for (const OwnedTensor* memory : {&got.dq, &got.dk, &got.dv})
    for (int64_t n = 0; n < c.forward.N && s.strided; ++n)
      EXPECT_EQ(memory->view().row<float>(n)[memory->view()[1] - 1], kUntouched) << "between rows of " << text_of(s);
  for (size_t b = 0; b < got.dstates.size(); ++b)
    expect("dstate", got.dstates[b], want.dstates[b], largest(c.finals[b]));
}

TEST(linear_attn_bwd_case, gradients_are_written_everywhere_and_nothing_beside_them) {
  const BwdCase c({.lengths = {5, 0, 3}, .H = 4, .Hk = 2, .Dk = 6, .Dv = 7, .strided = true});
  const Gradients g = run_reference(c);
  for (const auto& [memory, width] :
       {std::pair{&g.dq, 12}, {&g.dk, 12}, {&g.dv, 28}, {&g.dlog_decay, 24}, {&g.dbeta, 4}})
    for (int64_t n = 0; n < c.forward.N; ++n)
      for (int64_t i = 0; i < memory->view()[1]; ++i)
        EXPECT_EQ(memory->view().row<float>(n)[i] == kUntouched, i >= width) << width << " " << n << " " << i;
}

}  // namespace linnet::linear_attn_test
