// Test cases of the recurrent core's gradient: a forward case, dLoss/dout and dLoss/dS_T, run by the reference or a variant.
#pragma once

#include "ops/linear_attn/linear_attn_bwd.h"
#include "ops/linear_attn/linear_attn_case.h"

namespace linnet::linear_attn_test {

struct Gradients {
  OwnedTensor dq, dk, dv, dlog_decay, dbeta;  // [N, width], strided as the case is; the last two may be absent
  std::vector<OwnedTensor> dstates;           // dLoss/dS_T before, dLoss/dS_0 after
};

// What Loss = sum dout out + sum dstates S_T depends on, and which gradients are asked for.
struct BwdCase {
  explicit BwdCase(const CaseSpec& spec);

  Case forward;
  OwnedTensor dout;                 // [N, H Dv]
  std::vector<OwnedTensor> finals;  // dLoss/dS_T
  bool with_states = true;          // false: S_0 = 0 and dS_T = 0, by null arrays
  bool wants_all = true;            // false: dlog_decay and dbeta are not asked for

  // Every element of the gradients holds a number that no run leaves there.
  Gradients blank() const;
  struct Pointers {
    Case::Pointers forward;
    std::vector<float*> dstates;
  };
  ops::LinearAttnBwdArgs args(const Gradients& to, Pointers& pointers) const;
};

Gradients run_reference(const BwdCase& c);
Gradients run_variant(const BwdCase& c, int n_threads = 2);

void expect_same_bits(const Gradients& got, const Gradients& want);

// Each gradient within `factor` roundings of the largest value that its row, and the case, lead to: see the .cpp.
void expect_close(const Gradients& got, const Gradients& want, const BwdCase& c);

}  // namespace linnet::linear_attn_test
