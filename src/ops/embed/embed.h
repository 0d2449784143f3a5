// Embedding: rows of a table, widened to f32.
#pragma once

#include "core/exec.h"
#include "core/tensor.h"

namespace linnet::ops {

// y[n, c] = table[ids[n], c]
struct EmbedArgs {
  ConstTensor ids;    // [N] i32, each in [0, V)
  ConstTensor table;  // [V, C] f32, bf16 or f16, dense
  Tensor y;           // [N, C] f32, row stride free
};
// Throws InvalidArgument, also for an id outside the table (naming its place and value).
void embed(const EmbedArgs& args, const Exec& exec);

}  // namespace linnet::ops
