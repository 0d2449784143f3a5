// kda_sm90 decode: one token of B sequences, from the projections' outputs to the gated norm's output. Memory-bound.
//
// Grid    one CTA of 128 threads per (sequence, head), three an SM. Thread = channel = value column for the token's vectors;
//         a warp owns 32 key channels of the state (16 KB, contiguous), a lane 4 value columns of them.
// Tile    the state in shared memory: each warp asks for its rows by one prefetch into the L2 and one bulk copy at the start;
//         convolution, norms and gate are computed while they are under way. Read twice, written back from registers.
// Chain   o = S'^T q + u (k . q) with S' the decayed state, so both products read S' once and the output needs no second pass.
// Smem    65,536 B state + 7 KB: 192 KB of loads in flight an SM. 1 mbarrier a warp, 3 __syncthreads.
// Start   slot is read, and its state prefetched, before the grid before has ended; with pools_settled states, windows and weights are
//         read, too, so that only q, k, v, z, beta and the output gate remain to be waited for (see kda_decode_sm90).
// Numeric all f32 but the bf16 inputs and outputs; q, k stay f32 after their norm. Bitwise deterministic, whatever the batch.
// Traffic per head: state 2 * 65,536 B; inputs 1,282 B, convolution window 2 * 2,304 B and weights 6,144 B (cached across the batch).
// Floor   B=256, H=32: 1,122 MB / 4.23 TB/s (copy, same run) = 265.5 us.
// Reached 271.8 us = 0.98 of the floor; B=32 37.5 us = 0.89; bench/records/20261122-kda-sm90-decode.jsonl.
#include "ops/linear_attn/linear_attn_sm90_decode_kernel.cuh"

namespace linnet::ops {

int kda_decode_sm90(const KdaDecodeSm90& a, CUstream_st* stream) noexcept {
  using namespace sm90;
  using namespace sm90::step;
  if (const cudaError_t e = refusal_of(a, a.gate.gate)) return e;
  if (a.n_sequences == 0 || a.n_heads == 0) return cudaSuccess;
  if (!is_plain_step(a)) return launch_decode_options(a, stream);
  return a.gate.gate == KdaGate::softplus ? launch_decode<KdaGate::softplus, kDim, float, true>(a, stream)
                                          : launch_decode<KdaGate::lower_bound, kDim, float, true>(a, stream);
}

}  // namespace linnet::ops
