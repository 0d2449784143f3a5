// kda_sm90 verify: k tentative tokens of B sequences from one reading of the state, and commit of an accepted prefix. Memory-bound.
//
// Grid    one CTA of 128 threads per (sequence, head), three an SM. Thread = channel = value column; a warp owns 32 key channels of the
//         state, a lane 4 value columns of them: the layout of decode, so that every sum has decode's order and the bits are equal.
// Verify  keeps the state in registers (128 values a thread) over all tokens. The rows are asked for by one prefetch into the L2 a warp;
//         convolutions, gates and sums of all tokens are computed while they are under way. What the pool would need to advance goes to
//         pending: per token and head decay, k, write and the raw inputs (2,304 B).
// Commit  replays x = decay x + k write on the state for the accepted tokens and moves the windows on; none accepted: reads nothing else.
// Smem    verify 33 KB; commit 73 KB, the state's 64 KB among them, one mbarrier a warp.
// verify_kernel: registers 168, spills 0.
// commit_kernel: registers 72, spills 0.
// Numeric as decode: all f32 but the bf16 inputs and outputs. Outputs, and the pool after a commit, equal in bits those of single decodes.
// Traffic per head: verify reads 65,536 B of state, commit reads and writes them; 2,304 B a token written and, when accepted, read.
// Floor   B=256, H=32, k=4: verify 161 us, commit 280 us (bytes / 4.23 TB/s, copy of the same run).
// Reached 256 us = 0.63 and 282 us = 0.995 of it; bench/records/20261122-kda-sm90-verify.jsonl.
#include "ops/linear_attn/linear_attn_sm90_decode.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int kMaxTokens = kKdaSm90VerifyTokens;

// What one token of one head does to the pool.
struct Pending {
  float decay[kDim], k[kDim], write[kDim];
  __nv_bfloat16 raw[3][kDim];  // inputs of the convolution
};
static_assert(sizeof(Pending) == 2304);

template <int kMax>
struct VerifySmem {
  float4 token[kMax][kDim];           // per key channel: decay, k and q before their norms; v of the value column
  float sums[kMax][3][kDecodeWarps];  // per warp: |q|^2, |k|^2, q k
  Factors factors[kMax];
  float4 read[2][kDecodeWarps][kQuads];    // per warp: S'^T k over its key channels; even and odd tokens
  float4 answer[2][kDecodeWarps][kQuads];  // per warp: S'^T q
  float write[kMax][kDim];                 // u / |k|
  float o[kMax][kDim];
  float squares[kMax][kDecodeWarps];  // per warp: |o|^2
};
static_assert(3 * (sizeof(VerifySmem<kMaxTokens>) + 1024) <= 228 * 1024);

__device__ __forceinline__ float bf16_at(const void* x, int64_t at) {
  return __bfloat162float(static_cast<const __nv_bfloat16*>(x)[at]);
}

// Raw inputs of the thread's channel, all tokens at once: one wait for all of them. Beyond the last token: zero.
template <int kMax>
struct RawTokens {
  __nv_bfloat16 x[3][kMax], z[kMax];
};
template <int kMax>
__device__ __forceinline__ RawTokens<kMax> load_tokens(const KdaVerifySm90& a, int sequence, int channel) {
  RawTokens<kMax> r;
  const int64_t width = static_cast<int64_t>(a.n_heads) * kDim;
  const __nv_bfloat16 zero = __float2bfloat16_rn(0);
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    const bool in = t < a.n_tokens;
    const int64_t token = static_cast<int64_t>(sequence) * a.n_tokens + t;
#pragma unroll
    for (int i = 0; i < 3; i++)
      r.x[i][t] = in ? static_cast<const __nv_bfloat16*>(a.qkv)[(token * 3 + i) * width + channel] : zero;
    r.z[t] = in ? static_cast<const __nv_bfloat16*>(a.z)[token * width + channel] : zero;
  }
  return r;
}

// One stream of the thread's channel convolved over the tokens.
template <int kMax>
__device__ __forceinline__ void convolve_tokens(const KdaVerifySm90& a, int slot, int stream, int channel,
                                                const __nv_bfloat16 (&x)[kMax], float (&y)[kMax]) {
  const __nv_bfloat16* pool =
      static_cast<const __nv_bfloat16*>(a.conv_state) + window_at(a.n_heads, slot, stream, channel);
  const float4 w = conv_weights(a.conv_weight, a.n_heads, stream, channel);
  __nv_bfloat16 past[kWindow] = {pool[0], pool[1], pool[2]};
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    y[t] = convolve(w, past, x[t]);
    past[0] = past[1], past[1] = past[2], past[2] = x[t];
  }
}

// Everything about the tokens that does not need the state: into shared memory, and what commit needs of it into pending. For kMax tokens,
// without a branch, so that the compiler interleaves them; what is beyond the last token is not looked at.
template <KdaGate kGate, int kMax>
__device__ __forceinline__ void take_tokens(const KdaVerifySm90& a, int sequence, int head, int slot,
                                            VerifySmem<kMax>& s, Pending* pending) {
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, channel = head * kDim + tid;
  const RawTokens<kMax> raw = load_tokens<kMax>(a, sequence, channel);
  const Rates rates = load_rates(a.gate, head, channel);
  float y[3][kMax], decay[kMax];
#pragma unroll
  for (int i = 0; i < 3; i++) convolve_tokens(a, slot, i, channel, raw.x[i], y[i]);
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    decay[t] = decay_of<kGate>(__bfloat162float(raw.z[t]), rates);
    s.token[t][tid] = make_float4(decay[t], y[1][t], y[0][t], y[2][t]);
    put_sums(y[0][t], y[1][t], s.sums[t], warp, lane);
  }
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    if (t >= a.n_tokens) break;
    pending[t].decay[tid] = decay[t];
    pending[t].k[tid] = y[1][t];
#pragma unroll
    for (int i = 0; i < 3; i++) pending[t].raw[i][tid] = raw.x[i][t];
  }
}

// All tokens from the state in registers: writes and outputs before the gated norm, into shared memory. Everything else waits until the
// state is no longer held: there is no register to spare.
template <int kMax>
__device__ __forceinline__ void step_tokens(const float* state, int n_tokens, VerifySmem<kMax>& s) {
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, row0 = warp * kDecodeRows;
  float4 x[kDecodeRows];
#pragma unroll
  for (int i = 0; i < kDecodeRows; i++) x[i] = reinterpret_cast<const float4*>(state)[i * kQuads + lane];
#pragma unroll 1
  for (int t = 0; t < n_tokens; t++) {
    float4 read = {}, answer = {};
#pragma unroll
    for (int i = 0; i < kDecodeRows; i++) {
      const float4 f = s.token[t][row0 + i];
      x[i] = scaled(x[i], f.x);
      add_scaled(read, x[i], f.y);
      add_scaled(answer, x[i], f.z);
    }
    s.read[t & 1][warp][lane] = read;
    s.answer[t & 1][warp][lane] = answer;
    __syncthreads();
    const Column c = column_of(reinterpret_cast<const float*>(s.read[t & 1]) + tid,
                               reinterpret_cast<const float*>(s.answer[t & 1]) + tid, s.factors[t], s.token[t][tid].w);
    s.write[t][tid] = c.write;
    s.o[t][tid] = c.o;
    __syncthreads();
    const float4 write = reinterpret_cast<const float4*>(s.write[t])[lane];
#pragma unroll
    for (int i = 0; i < kDecodeRows; i++) add_scaled(x[i], write, s.token[t][row0 + i].y);
  }
}

// The gated norm of all tokens, and their writes into pending.
template <int kMax>
__device__ __forceinline__ void finish_tokens(const KdaVerifySm90& a, VerifySmem<kMax>& s) {
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  unsigned block = blockIdx.x;
  asm volatile("" : "+r"(block));  // found anew: nothing of this is kept in registers beside the state
  const int64_t sequence = block / a.n_heads, head = block % a.n_heads;
  Pending* const pending = static_cast<Pending*>(a.pending) + static_cast<int64_t>(block) * a.n_tokens;
  const auto at = [&](int t) { return ((sequence * a.n_tokens + t) * a.n_heads + head) * kDim + tid; };
  const float norm_weight = a.norm_weight[tid];
  float o[kMax], gate[kMax];
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    gate[t] = t < a.n_tokens ? bf16_at(a.out_gate, at(t)) : 0;
    o[t] = s.o[t][tid];  // beyond the last token anything
  }
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    const float square = warp_sum_squares(o[t]);
    if (lane == 0) s.squares[t][warp] = square;
  }
  __syncthreads();
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    if (t >= a.n_tokens) break;
    static_cast<__nv_bfloat16*>(a.out)[at(t)] =
        normed(o[t], s.squares[t], a.norm_eps, norm_weight, sigmoid_fast(gate[t]));
    pending[t].write[tid] = s.write[t][tid];
  }
}

template <KdaGate kGate, int kMax>
__global__ void __launch_bounds__(kDecodeThreads, 3) verify_kernel(const __grid_constant__ KdaVerifySm90 a) {
  LINNET_SHARED(s, VerifySmem<kMax>);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  const int sequence = blockIdx.x / a.n_heads, head = blockIdx.x % a.n_heads;
  const int slot = a.slot[sequence];
  if (slot < 0) return wait_for_dependency();  // so that this grid never ends before the one before it
  const float* const state = rows_of(a.state, a.slot, a.n_heads, blockIdx.x, warp);
  if (lane == 0) bulk_prefetch(state, kDecodeRowBytes);
#pragma unroll
  for (int i = 0; i < 3; i++)
    prefetch_line(static_cast<const __nv_bfloat16*>(a.conv_state) + window_at(a.n_heads, slot, i, head * kDim + tid));
  wait_for_dependency();
  launch_dependents();
  take_tokens<kGate>(a, sequence, head, slot, s,
                     static_cast<Pending*>(a.pending) + static_cast<int64_t>(blockIdx.x) * a.n_tokens);
  __syncthreads();
  if (tid < a.n_tokens)
    s.factors[tid] = factors_of(
        s.sums[tid], bf16_at(a.beta, (static_cast<int64_t>(sequence) * a.n_tokens + tid) * a.n_heads + head), a.scale);
  step_tokens(state, a.n_tokens, s);
  finish_tokens(a, s);
}

struct CommitSmem {
  float4 state[kDim][kQuads];
  float2 token[kMaxTokens][kDim];  // decay, k
  uint64_t full[kDecodeWarps];     // the warp's rows have arrived
};
static_assert(3 * (sizeof(CommitSmem) + 1024) <= 228 * 1024);

// The windows of the thread's channel after n >= 1 accepted tokens.
struct Windows {
  __nv_bfloat16 next[3][kWindow];
};
__device__ __forceinline__ int64_t window_start(const KdaCommitSm90& a, int slot, int stream, int head) {
  return window_at(a.n_heads, slot, stream, head * kDim + threadIdx.x);
}
__device__ __forceinline__ Windows load_windows(const KdaCommitSm90& a, int slot, int head, const Pending* pending,
                                                int n) {
  Windows w;
#pragma unroll
  for (int i = 0; i < 3; i++) {
    const __nv_bfloat16* past = static_cast<const __nv_bfloat16*>(a.conv_state) + window_start(a, slot, i, head);
#pragma unroll
    for (int j = 0; j < kWindow; j++) {
      const int t = n - kWindow + j;  // the token whose input comes here; before the first: what the window holds
      w.next[i][j] = *(t >= 0 ? &pending[t].raw[i][threadIdx.x] : &past[j + n]);
    }
  }
  return w;
}
__device__ __forceinline__ void store_windows(const KdaCommitSm90& a, int slot, int head, const Windows& w) {
#pragma unroll
  for (int i = 0; i < 3; i++) {
    __nv_bfloat16* past = static_cast<__nv_bfloat16*>(a.conv_state) + window_start(a, slot, i, head);
#pragma unroll
    for (int j = 0; j < kWindow; j++) past[j] = w.next[i][j];
  }
}

// What the accepted tokens do to the warp's rows: decay and k of row0 + lane into shared memory, the write of the lane's value columns.
__device__ __forceinline__ void load_pending(const Pending* pending, int n, CommitSmem& s,
                                             float4 (&write)[kMaxTokens]) {
  const int tid = threadIdx.x;
  float2 row[kMaxTokens];
#pragma unroll
  for (int t = 0; t < kMaxTokens; t++) {
    if (t >= n) break;
    row[t] = make_float2(pending[t].decay[tid], pending[t].k[tid]);
    write[t] = reinterpret_cast<const float4*>(pending[t].write)[tid & 31];
  }
#pragma unroll
  for (int t = 0; t < kMaxTokens; t++) {
    if (t >= n) break;
    s.token[t][tid] = row[t];
  }
}

__global__ void __launch_bounds__(kDecodeThreads, 3) commit_kernel(const __grid_constant__ KdaCommitSm90 a) {
  LINNET_DYNAMIC_SHARED(smem_bytes, 128);
  CommitSmem& s = *reinterpret_cast<CommitSmem*>(smem_bytes);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, row0 = warp * kDecodeRows;
  const int sequence = blockIdx.x / a.n_heads, head = blockIdx.x % a.n_heads;
  if (!a.settled) wait_for_dependency();
  const int slot = a.slot[sequence], n = min(a.n_accepted[sequence], a.n_tokens);
  if (slot < 0 || n <= 0) return wait_for_dependency();  // so that this grid never ends before the one before it
  float* const state = rows_of(a.state, a.slot, a.n_heads, blockIdx.x, warp);
  const uint32_t full = smem_address(&s.full[warp]);
  if (lane == 0) {
    bulk_prefetch(state, kDecodeRowBytes);
    barrier_init(full, 1);
    fence_barrier_init();
    barrier_expect(full, kDecodeRowBytes);
    bulk_load(smem_address(s.state[row0]), state, kDecodeRowBytes, full);
  }
  __syncwarp();
  const Pending* const pending = static_cast<const Pending*>(a.pending) + static_cast<int64_t>(blockIdx.x) * a.n_tokens;
  float4 write[kMaxTokens];
  const Windows windows = load_windows(a, slot, head, pending, n);
  load_pending(pending, n, s, write);
  __syncwarp();
  wait_for_dependency();
  launch_dependents();
  store_windows(a, slot, head, windows);
  barrier_wait(full, 0);
#pragma unroll 4
  for (int i = 0; i < kDecodeRows; i++) {
    float4 x = s.state[row0 + i][lane];
#pragma unroll
    for (int t = 0; t < kMaxTokens; t++) {
      if (t >= n) break;
      const float2 f = s.token[t][row0 + i];
      x = scaled(x, f.x);
      add_scaled(x, write[t], f.y);
    }
    reinterpret_cast<float4*>(state)[i * kQuads + lane] = x;
  }
}

bool valid(int n_sequences, int n_heads, int n_tokens) {
  return n_sequences >= 0 && n_heads >= 0 && n_tokens >= 1 && n_tokens <= kMaxTokens;
}

template <KdaGate kGate, int kMax>
cudaError_t launch_verify(const KdaVerifySm90& a, cudaStream_t stream) {
  const unsigned grid = static_cast<unsigned>(a.n_sequences) * a.n_heads;
  constexpr int kPadding = kHalfSmBytes - static_cast<int>(sizeof(VerifySmem<kMax>));  // keeps a third CTA off the SM
  return launch_beside(verify_kernel<kGate, kMax>, grid, grid <= 2 * kSms ? kPadding : 0, true, stream, a);
}
template <KdaGate kGate>
cudaError_t launch_verify(const KdaVerifySm90& a, cudaStream_t stream) {
  if (a.n_tokens <= 2) return launch_verify<kGate, 2>(a, stream);
  if (a.n_tokens <= 6) return launch_verify<kGate, 6>(a, stream);
  return launch_verify<kGate, kMaxTokens>(a, stream);
}

}  // namespace
}  // namespace linnet::ops::sm90

namespace linnet::ops {

using namespace sm90;

size_t kda_verify_sm90_pending_bytes(int n_sequences, int n_heads, int n_tokens) noexcept {
  return static_cast<size_t>(n_sequences) * n_heads * n_tokens * sizeof(Pending);
}

int kda_verify_sm90(const KdaVerifySm90& a, CUstream_st* stream) noexcept {
  if (!valid(a.n_sequences, a.n_heads, a.n_tokens) || a.gate.gate > KdaGate::lower_bound) return cudaErrorInvalidValue;
  if (a.n_sequences == 0 || a.n_heads == 0) return cudaSuccess;
  return a.gate.gate == KdaGate::softplus ? launch_verify<KdaGate::softplus>(a, stream)
                                          : launch_verify<KdaGate::lower_bound>(a, stream);
}

int kda_commit_sm90(const KdaCommitSm90& a, CUstream_st* stream) noexcept {
  if (!valid(a.n_sequences, a.n_heads, a.n_tokens)) return cudaErrorInvalidValue;
  if (a.n_sequences == 0 || a.n_heads == 0) return cudaSuccess;
  const unsigned grid = static_cast<unsigned>(a.n_sequences) * a.n_heads;
  const bool by_two = grid <= (a.settled ? 4 : 2) * kSms;
  return launch_beside(commit_kernel, grid, by_two ? kHalfSmBytes : static_cast<int>(sizeof(CommitSmem)),
                       a.settled || by_two, stream, a);
}

}  // namespace linnet::ops
