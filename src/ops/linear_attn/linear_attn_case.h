// Test cases of the recurrent core: random inputs of a given kind, run by the reference or by a variant, whole or in
// pieces.
#pragma once

#include <string>
#include <vector>

#include "ops/linear_attn/linear_attn.h"
#include "support/compare.h"
#include "support/owned_tensor.h"

namespace linnet::linear_attn_test {

using test::OwnedTensor;

// What the log-decays look like.
enum class Gate {
  zero,
  weak,       // around -0.01 a token: slow channels, the normal case of a trained model that remembers
  softplus,   // -A softplus(z): between -1e-3 and -10, as trained gates are
  strong,     // around -5
  mixed,      // 10^u, u uniform in [-4, 1.5]: neighbouring channels differ by orders of magnitude
  cliff,      // weak, but every few tokens some channels lose e^-200 in one step
  minus_inf,  // weak, but every few tokens some channels are erased
};
enum class Keys { random, identical, some_zero };  // l2-normalised; identical: all tokens; some_zero: every third token
enum class Beta { random, absent, zero, one };

constexpr ops::Decay kDecays[] = {ops::Decay::none, ops::Decay::per_head, ops::Decay::per_token,
                                  ops::Decay::per_channel};
constexpr Gate kGates[] = {Gate::zero,  Gate::weak,  Gate::softplus, Gate::strong,
                           Gate::mixed, Gate::cliff, Gate::minus_inf};

struct CaseSpec {
  std::vector<int> lengths = {200};  // tokens of each sequence
  int64_t H = 2, Hk = 1, Dk = 24, Dv = 20;
  ops::Decay decay = ops::Decay::per_channel;
  bool delta = true;
  Gate gate = Gate::mixed;
  Keys keys = Keys::random;
  Beta beta = Beta::random;
  ops::LinearAttnForm form = ops::LinearAttnForm::by_length;
  bool strided = false;  // every row stride exceeds its width
  uint64_t seed = 1;
};
std::string text_of(const CaseSpec& spec);

struct Case {
  explicit Case(const CaseSpec& spec);
  // Arguments over `out` [N, H, Dv] and the given states [B][H, Dk, Dv]; both must outlive them. Tokens [first, first +
  // count) of the only sequence, or everything when count < 0.
  struct Pointers {
    std::vector<float*> states;
    OwnedTensor seq_start;
    std::vector<int64_t> n_past;
  };
  ops::LinearAttnArgs args(const Tensor& out, const std::vector<OwnedTensor>& states, Pointers& pointers,
                           int64_t first = 0, int64_t count = -1) const;

  CaseSpec spec;
  int64_t N = 0;
  OwnedTensor q, k, v, log_decay, beta;  // the last two may be absent
  std::vector<OwnedTensor> initial;      // states before
};

struct Result {
  OwnedTensor out;                  // [N, H, Dv]
  std::vector<OwnedTensor> states;  // after
};
Result run_reference(const Case& c);
Result run_variant(const Case& c, int n_threads = 2);
// One sequence, in pieces of the given numbers of tokens, each continuing from the state the one before left.
Result run_pieces(const Case& c, const std::vector<int64_t>& pieces, int n_threads = 1);

// The largest 2-norm of a state column plus the largest |v|: what rounding errors are relative to. By stepping the
// reference.
double magnitude(const Case& c);
test::Tolerance tolerance_of(const Case& c);

// Outputs and states within the tolerance of the case.
void expect_close(const Result& got, const Result& want, const Case& c);
void expect_same_bits(const Result& got, const Result& want);

}  // namespace linnet::linear_attn_test
