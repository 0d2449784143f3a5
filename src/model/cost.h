// What a pass has to compute and to read at least: the floors that measured times are held against.
#pragma once

#include <cstdint>

#include "model/kimi_linear.h"

namespace linnet::model {

// FLOPs (a multiply-add counts two) of `n_new` tokens after `n_past`, with the logits of the last one:
//   products with weights   2 x parameters that a token uses (K of E experts, no embedding), the head for one token
//   KDA core                6 Dk Dv + 3 L Dk + 2 L Dv + L^2 / 3 a token and head, in chunks of L tokens
//   MLA                     2 (Dn + Dr + Dv) a head for each pair of a token and one it attends to
struct PrefillCost {
  double products = 0, kda_core = 0, mla_attention = 0;
  double total() const { return products + kda_core + mla_attention; }
};
PrefillCost prefill_cost(const KimiLinear& model, int64_t n_past, int64_t n_new);

// Bytes of one token after `n_past`: the weights it uses once, the recurrent states read and written, the latents read.
struct DecodeCost {
  int64_t weight_bytes = 0, state_bytes = 0;
  int64_t total() const { return weight_bytes + state_bytes; }
};
DecodeCost decode_cost(const KimiLinear& model, int64_t n_past);

}  // namespace linnet::model
