// What the recurrent core promises bit for bit: causality, cuts at chunk boundaries, thread counts. And hand-over at
// any token.
#include <gtest/gtest.h>

#include <limits>

#include "ops/linear_attn/linear_attn_case.h"

namespace linnet::linear_attn_test {
namespace {

using ops::Decay;

void fill_row(const OwnedTensor& t, int64_t n, float value) {
  if (!t.view()) return;
  for (int64_t i = 0; i < t.view()[1]; ++i) t.view().row<float>(n)[i] = value;
}

// Everything token t brings in, replaced by other values.
Case with_other_token(Case c, int64_t t, float q, float k, float v, float log_decay, float beta) {
  fill_row(c.q, t, q), fill_row(c.k, t, k), fill_row(c.v, t, v), fill_row(c.beta, t, beta);
  if (c.spec.decay >= Decay::per_token) fill_row(c.log_decay, t, log_decay);
  return c;
}

void expect_same_rows_before(const Result& got, const Result& want, int64_t t, const char* what) {
  if (t == 0) return;
  EXPECT_TRUE(test::same_bits(got.out.view().rows(0, t), want.out.view().rows(0, t))) << what << " at " << t;
}

// With the form fixed: chunks wherever pieces end at multiples of 64 of the sequence, after one that does not, too; steps anywhere.
TEST(linear_attn_bits, a_fixed_form_and_the_cuts_it_allows) {
  using enum ops::LinearAttnForm;
  for (Decay decay : kDecays)
    for (ops::LinearAttnForm form : {chunks, steps}) {
      const Case c({.lengths = {205},
                    .H = 3,
                    .Hk = 3,
                    .Dk = 20,
                    .Dv = 70,
                    .decay = decay,
                    .gate = Gate::softplus,
                    .form = form});
      const Result whole = run_pieces(c, {205});
      expect_close(whole, run_reference(c), c);
      expect_same_bits(run_pieces(c, {64, 64, 64, 13}, 2), whole);
      expect_same_bits(run_pieces(c, {128, 77}, 7), whole);
      const Result from_ten = run_pieces(c, {10, 195});
      expect_close(from_ten, run_reference(c), c);
      expect_same_bits(run_pieces(c, {10, 54, 128, 13}, 5), from_ten);
      expect_same_bits(run_pieces(c, {10, 182, 13}), from_ten);
      if (form == steps) expect_same_bits(run_pieces(c, {1, 2, 77, 64, 61}), whole);
    }
  const Case c({.lengths = {3}, .H = 1, .Dk = 20, .Dv = 18, .form = chunks}),
      stepped({.lengths = {3}, .H = 1, .Dk = 20, .Dv = 18, .form = steps});
  EXPECT_FALSE(test::same_bits(run_pieces(c, {3}).out, run_pieces(stepped, {3}).out))
      << "the forms cannot be told apart";
}

TEST(linear_attn_bits, outputs_do_not_depend_on_later_tokens) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
  for (Decay decay : kDecays)
    for (bool delta : {false, true}) {
      const Case c(
          {.lengths = {150}, .H = 1, .Dk = 20, .Dv = 18, .decay = decay, .delta = delta, .gate = Gate::softplus});
      const Result want = run_variant(c, 1);
      for (int64_t t :
           {0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 47, 48, 63, 64, 65, 100, 127, 128, 131, 136, 149}) {
        expect_same_rows_before(run_variant(with_other_token(c, t, 9, -3, 1e4f, -3, 0.5f), 1), want, t, "finite");
        expect_same_rows_before(run_variant(with_other_token(c, t, 1, 1, 1, -kInf, 1), 1), want, t, "erasing");
        expect_same_rows_before(run_variant(with_other_token(c, t, kNaN, kNaN, kNaN, kNaN, kNaN), 1), want, t, "NaN");
      }
    }
}

TEST(linear_attn_bits, cuts_at_chunk_boundaries_change_nothing) {
  for (Decay decay : kDecays)
    for (bool delta : {false, true})
      for (int T : {192, 193, 200, 201, 250}) {
        const Case c(
            {.lengths = {T}, .H = 1, .Dk = 20, .Dv = 18, .decay = decay, .delta = delta, .gate = Gate::softplus});
        const Result whole = run_pieces(c, {T});
        expect_same_bits(run_pieces(c, {64, T - 64}), whole);
        expect_same_bits(run_pieces(c, {128, T - 128}), whole);
        expect_same_bits(run_pieces(c, {64, 64, 64, T - 192}), whole);
      }
}

// Two lengths that both end in a chunk (not in steps): the shorter one is a prefix of the longer one.
TEST(linear_attn_bits, a_prefix_gives_the_same_outputs) {
  for (Decay decay : kDecays) {
    const Case c({.lengths = {200}, .H = 1, .Dk = 20, .Dv = 18, .decay = decay, .gate = Gate::softplus});
    const Result whole = run_pieces(c, {192});
    for (int64_t T : {9, 16, 17, 33, 50, 63, 64, 75, 128, 150})
      expect_same_rows_before(run_pieces(c, {T}), whole, T, "prefix");
  }
}

TEST(linear_attn_bits, the_thread_count_changes_nothing) {
  for (const CaseSpec& spec : {CaseSpec{.lengths = {150, 4, 0, 70, 1}, .H = 3, .Hk = 3, .Dk = 24, .Dv = 40},
                               CaseSpec{.lengths = {333}, .H = 1, .Dk = 40, .Dv = 100, .gate = Gate::softplus},
                               CaseSpec{.lengths = {100}, .H = 1, .Dk = 3, .Dv = 5, .decay = Decay::per_token},
                               CaseSpec{.lengths = {1}, .H = 1, .Dk = 128, .Dv = 128}}) {
    const Case c(spec);
    const Result want = run_variant(c, 1);
    for (int threads : {2, 3, 7}) expect_same_bits(run_variant(c, threads), want);
  }
}

TEST(linear_attn_bits, a_sequence_may_be_continued_token_by_token_from_anywhere) {
  constexpr int64_t kTokens = 140;
  for (Decay decay : {Decay::per_token, Decay::per_channel}) {
    const Case c({.lengths = {kTokens}, .H = 1, .Dk = 20, .Dv = 12, .decay = decay, .gate = Gate::softplus});
    const Result want = run_reference(c);
    for (int64_t n = 1; n <= 130; ++n) {
      std::vector<int64_t> pieces(static_cast<size_t>(kTokens - n), 1);
      pieces.insert(pieces.begin(), n);
      expect_close(run_pieces(c, pieces), want, c);
    }
  }
}

}  // namespace
}  // namespace linnet::linear_attn_test
