// Gradient of the embedding.
#pragma once

#include "core/exec.h"
#include "core/tensor.h"

namespace linnet::ops {

// dtable[ids[n]] += dy[n], tokens in ascending order whatever the thread count
struct EmbedBwdArgs {
  ConstTensor ids;  // [N] i32, each in [0, V)
  ConstTensor dy;   // [N, C] f32, row stride free
  Tensor dtable;    // [V, C] f32, dense, added to
};
// Throws InvalidArgument, also for an id outside the table.
void embed_bwd(const EmbedBwdArgs& args, const Exec& exec);

}  // namespace linnet::ops
