// kda_sm90 verify: k tentative tokens of B sequences from one reading of the state, and commit of an accepted prefix. Memory-bound.
//
// Grid    one CTA of 128 threads per (sequence, head), three an SM. Thread = channel = value column; a warp owns 32 key channels of the
//         state, a lane 4 value columns of them: the layout of decode, so that every sum has decode's order and the bits are equal.
// Verify  keeps the state in registers (128 values a thread) over all tokens. The rows are asked for by one prefetch into the L2 a warp;
//         convolutions, gates and sums of all tokens are computed while they are under way. What the pool would need to advance goes to
//         pending: per token and head decay, k, write and the raw inputs (2,304 B).
// Commit  replays x = decay x + k write on the state for the accepted tokens and moves the windows on; none accepted: reads nothing else.
// Smem    verify 33 KB; commit 73 KB, the state's 64 KB among them, one mbarrier a warp.
// Numeric as decode: all f32 but the bf16 inputs and outputs. Outputs, and the pool after a commit, equal in bits those of single decodes.
// Traffic per head: verify reads 65,536 B of state, commit reads and writes them; 2,304 B a token written and, when accepted, read.
// Floor   B=256, H=32, k=4: verify 161 us, commit 280 us (bytes / 4.23 TB/s, copy of the same run).
// Reached 256 us = 0.63 and 282 us = 0.995 of it; bench/records/20261122-kda-sm90-verify.jsonl.
#include "ops/linear_attn/linear_attn_sm90_verify_kernel.cuh"

namespace linnet::ops {

using namespace sm90;
using namespace sm90::step;

static bool has_tokens(int n_tokens) { return n_tokens >= 1 && n_tokens <= kMaxTokens; }

size_t kda_verify_sm90_pending_bytes(int n_sequences, int n_heads, int n_tokens, int head_dim) noexcept {
  const size_t one = head_dim == 64 ? sizeof(Pending<64>) : sizeof(Pending<128>);
  return static_cast<size_t>(n_sequences) * n_heads * n_tokens * one;
}

int kda_verify_sm90(const KdaVerifySm90& a, CUstream_st* stream) noexcept {
  if (!has_tokens(a.n_tokens)) return cudaErrorInvalidValue;
  if (const cudaError_t e = refusal_of(a, a.gate.gate)) return e;
  if (a.n_sequences == 0 || a.n_heads == 0) return cudaSuccess;
  if (!is_plain_step(a)) return launch_verify_options(a, stream);
  return a.gate.gate == KdaGate::softplus ? launch_verify<KdaGate::softplus, kDim, float, true>(a, stream)
                                          : launch_verify<KdaGate::lower_bound, kDim, float, true>(a, stream);
}

int kda_commit_sm90(const KdaCommitSm90& a, CUstream_st* stream) noexcept {
  if (!has_tokens(a.n_tokens)) return cudaErrorInvalidValue;
  if (const cudaError_t e = refusal_of(a, KdaGate::softplus)) return e;
  if (a.n_sequences == 0 || a.n_heads == 0) return cudaSuccess;
  if (!is_plain(a)) return launch_commit_options(a, stream);
  return launch_commit<DecodeShape<kDim, float>>(a, stream);
}

}  // namespace linnet::ops
