// The kernels of verify and commit for Hopper, for all of their builds; linear_attn_sm90_verify.cu has their story.
// verify_kernel: registers 168, spills 76, stack 32. Plain builds spill nothing, of those with options bf16 states of 128 the most.
// commit_kernel: registers 76, spills 0. Plain build 72.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_decode.cuh"

namespace linnet::ops::sm90::step {

constexpr int kMaxTokens = kKdaSm90VerifyTokens;

// Builds with options, or other heads and states than the plain ones: linear_attn_sm90_verify_options.cu.
cudaError_t launch_verify_options(const KdaVerifySm90& args, cudaStream_t stream);
cudaError_t launch_commit_options(const KdaCommitSm90& args, cudaStream_t stream);

// What one token of one head does to the pool.
template <int kD>
struct Pending {
  float decay[kD], k[kD], write[kD];
  __nv_bfloat16 raw[3][kD];  // inputs of the convolution
};
static_assert(sizeof(Pending<kDim>) == 2304);

// What a build of the kernel is made for. kMax: tokens. Plain: the layer's call, without code for options.
template <KdaGate kGate_, int kMax_, int kD, class State, bool kPlain_>
struct VerifyBuild : DecodeShape<kD, State> {
  static constexpr KdaGate kGate = kGate_;
  static constexpr int kMax = kMax_;
  static constexpr bool kPlain = kPlain_;
  // The state is in registers: other numbers of CTAs an SM.
  static constexpr int kMost = kD == 128 ? 3 : 8, kFew = kD == 128 ? 2 : 4, kFewBytes = kHalfSmBytes * 2 / kFew;
};

template <class B>
struct VerifySmem {
  static constexpr int kMax = B::kMax, kD = B::kWidth, kWarps = B::kWarps;
  float4 token[kMax][kD];       // per key channel: decay, k and q before their norms; v of the value column
  float sums[kMax][3][kWarps];  // per warp: |q|^2, |k|^2, q k
  Factors factors[kMax];
  float4 read[2][B::kParts][B::kLanes];    // parts of S'^T k, over key channels; even and odd tokens
  float4 answer[2][B::kParts][B::kLanes];  // of S'^T q
  float write[kMax][kD];                   // u / |k|
  float o[kMax][kD];
  float squares[kMax][kWarps];  // per warp: |o|^2
  static_assert(B::kMost * (33 * 1024 * kD / 128 + 1024) <= 228 * 1024);
};

__device__ __forceinline__ float bf16_at(const void* x, int64_t at) {
  return __bfloat162float(static_cast<const __nv_bfloat16*>(x)[at]);
}

// Raw inputs of the thread's channel, all tokens at once: one wait for all of them. Beyond the last token: zero.
template <int kMax>
struct RawTokens {
  __nv_bfloat16 x[3][kMax], z[kMax];
};
template <class B>
__device__ __forceinline__ RawTokens<B::kMax> load_tokens(const KdaVerifySm90& a, int sequence, int head, int channel) {
  constexpr int kMax = B::kMax;
  RawTokens<kMax> r;
  const int64_t width = static_cast<int64_t>(a.n_heads) * B::kWidth;
  const __nv_bfloat16 zero = __float2bfloat16_rn(0);
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    const bool in = t < a.n_tokens;
    const int64_t token = static_cast<int64_t>(sequence) * a.n_tokens + t;
#pragma unroll
    for (int i = 0; i < 3; i++)
      r.x[i][t] = in ? static_cast<const __nv_bfloat16*>(a.qkv)[(token * 3 + i) * width + channel] : zero;
    r.z[t] = in ? static_cast<const __nv_bfloat16*>(
                      a.z)[is_of_head(B::kGate) ? token * a.n_heads + head : token * width + channel]
                : zero;
  }
  return r;
}

// One stream of the thread's channel convolved over the tokens.
template <int kD, int kMax>
__device__ __forceinline__ void convolve_tokens(const KdaVerifySm90& a, int slot, int stream, int channel,
                                                const __nv_bfloat16 (&x)[kMax], float (&y)[kMax]) {
  const __nv_bfloat16* pool =
      static_cast<const __nv_bfloat16*>(a.conv_state) + window_at<kD>(a.n_heads, slot, stream, channel);
  const float4 w = conv_weights<kD>(a.conv_weight, a.n_heads, stream, channel);
  __nv_bfloat16 past[kWindow] = {pool[0], pool[1], pool[2]};
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    y[t] = convolve(w, past, x[t]);
    past[0] = past[1], past[1] = past[2], past[2] = x[t];
  }
}

// Everything about the tokens that does not need the state: into shared memory, and what commit needs of it into pending. For kMax tokens,
// without a branch, so that the compiler interleaves them; what is beyond the last token is not looked at.
template <class B>
__device__ __forceinline__ void take_tokens(const KdaVerifySm90& a, int sequence, int head, int slot, VerifySmem<B>& s,
                                            Pending<B::kWidth>* pending) {
  constexpr int kMax = B::kMax;
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, channel = head * B::kWidth + tid;
  const RawTokens<kMax> raw = load_tokens<B>(a, sequence, head, channel);
  const Rates rates = load_rates<B::kGate>(a.gate, head, channel);
  float y[3][kMax], decay[kMax];
#pragma unroll
  for (int i = 0; i < 3; i++) convolve_tokens<B::kWidth>(a, slot, i, channel, raw.x[i], y[i]);
#pragma unroll
  for (int t = 0; t < kMax; t++) {
    decay[t] = decay_of<B::kGate>(__bfloat162float(raw.z[t]), rates);
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
template <class B>
__device__ __forceinline__ void step_tokens(const typename B::State* state, int n_tokens, VerifySmem<B>& s) {
  using T = typename B::State;
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, row0 = warp * kDecodeRows;
  // Four i of the lane: a row of the state, and the value columns from 4 four on.
  const int part = warp * B::kAtOnce + lane / B::kLanes, four = lane % B::kLanes;
  const auto row = [&](int i) { return row0 + i * B::kAtOnce + lane / B::kLanes; };
  float4 x[B::kFours];
#pragma unroll
  for (int i = 0; i < B::kFours; i++)
    x[i] = floats_of(reinterpret_cast<const Four<T>*>(state)[(row(i) - row0) * B::kLanes + four]);
#pragma unroll 1
  for (int t = 0; t < n_tokens; t++) {
    float4 read = {}, answer = {};
#pragma unroll
    for (int i = 0; i < B::kFours; i++) {
      const float4 f = s.token[t][row(i)];
      x[i] = scaled(x[i], f.x);
      add_scaled(read, x[i], f.y);
      add_scaled(answer, x[i], f.z);
    }
    s.read[t & 1][part][four] = read;
    s.answer[t & 1][part][four] = answer;
    __syncthreads();
    const Column c =
        column_of<B::kWidth>(reinterpret_cast<const float*>(s.read[t & 1]) + tid,
                             reinterpret_cast<const float*>(s.answer[t & 1]) + tid, s.factors[t], s.token[t][tid].w);
    s.write[t][tid] = c.write;
    s.o[t][tid] = c.o;
    __syncthreads();
    const float4 write = reinterpret_cast<const float4*>(s.write[t])[four];
#pragma unroll
    for (int i = 0; i < B::kFours; i++) {
      add_scaled(x[i], write, s.token[t][row(i)].y);
      x[i] = floats_of(four_of<T>(x[i]));  // what a step leaves in the pool
    }
  }
}

// The gated norm of all tokens, and their writes into pending.
template <class B>
__device__ __forceinline__ void finish_tokens(const KdaVerifySm90& a, VerifySmem<B>& s) {
  constexpr int kMax = B::kMax, kD = B::kWidth;
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  unsigned block = blockIdx.x;
  asm volatile("" : "+r"(block));  // found anew: nothing of this is kept in registers beside the state
  const int64_t sequence = block / a.n_heads, head = block % a.n_heads;
  auto* const pending = static_cast<Pending<kD>*>(a.pending) + static_cast<int64_t>(block) * a.n_tokens;
  const auto at = [&](int t) { return ((sequence * a.n_tokens + t) * a.n_heads + head) * kD + tid; };
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
        normed<kD>(o[t], s.squares[t], a.norm_eps, norm_weight, output_gate(gate[t], !B::kPlain && a.out_gate_silu));
    pending[t].write[tid] = s.write[t][tid];
  }
}

template <class B>
__global__ void __launch_bounds__(B::kThreads, B::kMost) verify_kernel(const __grid_constant__ KdaVerifySm90 a) {
  using T = typename B::State;
  constexpr int kD = B::kWidth;
  LINNET_SHARED(s, VerifySmem<B>);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  const int sequence = blockIdx.x / a.n_heads, head = blockIdx.x % a.n_heads;
  const int slot = a.slot[sequence];
  if (slot < 0) return wait_for_dependency();  // so that this grid never ends before the one before it
  const T* const state = rows_of<B>(static_cast<const T*>(a.state), a.slot, a.n_heads, blockIdx.x, warp);
  if (lane == 0) bulk_prefetch(state, B::kRowBytes);
#pragma unroll
  for (int i = 0; i < 3; i++)
    prefetch_line(static_cast<const __nv_bfloat16*>(a.conv_state) + window_at<kD>(a.n_heads, slot, i, head * kD + tid));
  wait_for_dependency();
  launch_dependents();
  take_tokens<B>(a, sequence, head, slot, s,
                 static_cast<Pending<kD>*>(a.pending) + static_cast<int64_t>(blockIdx.x) * a.n_tokens);
  __syncthreads();
  if (tid < a.n_tokens)
    s.factors[tid] = factors_of(
        s.sums[tid], bf16_at(a.beta, (static_cast<int64_t>(sequence) * a.n_tokens + tid) * a.n_heads + head), a.scale);
  step_tokens<B>(state, a.n_tokens, s);
  finish_tokens<B>(a, s);
}

template <class B>
cudaError_t launch_verify(const KdaVerifySm90& a, cudaStream_t stream) {
  const unsigned grid = static_cast<unsigned>(a.n_sequences) * a.n_heads;
  constexpr int kPadding = B::kFewBytes - static_cast<int>(sizeof(VerifySmem<B>));  // keeps another CTA off the SM
  return launch_beside<B::kThreads>(verify_kernel<B>, grid, grid <= B::kFew * kSms ? kPadding : 0, true, stream, a);
}
template <KdaGate kGate, int kD, class State, bool kPlain>
cudaError_t launch_verify(const KdaVerifySm90& a, cudaStream_t stream) {
  if (a.n_tokens <= 2) return launch_verify<VerifyBuild<kGate, 2, kD, State, kPlain>>(a, stream);
  if (a.n_tokens <= 6) return launch_verify<VerifyBuild<kGate, 6, kD, State, kPlain>>(a, stream);
  return launch_verify<VerifyBuild<kGate, kMaxTokens, kD, State, kPlain>>(a, stream);
}

template <class S>
struct CommitSmem {
  Four<typename S::State> state[S::kWidth][S::kLanes];
  float2 token[kMaxTokens][S::kWidth];  // decay, k
  uint64_t full[S::kWarps];             // the warp's rows have arrived
};

// The windows of the thread's channel after n >= 1 accepted tokens.
struct Windows {
  __nv_bfloat16 next[3][kWindow];
};
template <int kD>
__device__ __forceinline__ int64_t window_start(const KdaCommitSm90& a, int slot, int stream, int head) {
  return window_at<kD>(a.n_heads, slot, stream, head * kD + threadIdx.x);
}
template <int kD>
__device__ __forceinline__ Windows load_windows(const KdaCommitSm90& a, int slot, int head, const Pending<kD>* pending,
                                                int n) {
  Windows w;
#pragma unroll
  for (int i = 0; i < 3; i++) {
    const __nv_bfloat16* past = static_cast<const __nv_bfloat16*>(a.conv_state) + window_start<kD>(a, slot, i, head);
#pragma unroll
    for (int j = 0; j < kWindow; j++) {
      const int t = n - kWindow + j;  // the token whose input comes here; before the first: what the window holds
      w.next[i][j] = *(t >= 0 ? &pending[t].raw[i][threadIdx.x] : &past[j + n]);
    }
  }
  return w;
}
template <int kD>
__device__ __forceinline__ void store_windows(const KdaCommitSm90& a, int slot, int head, const Windows& w) {
#pragma unroll
  for (int i = 0; i < 3; i++) {
    __nv_bfloat16* past = static_cast<__nv_bfloat16*>(a.conv_state) + window_start<kD>(a, slot, i, head);
#pragma unroll
    for (int j = 0; j < kWindow; j++) past[j] = w.next[i][j];
  }
}

// What the accepted tokens do to the warp's rows: decay and k of row0 + lane into shared memory, the write of the lane's value columns.
template <class S>
__device__ __forceinline__ void load_pending(const Pending<S::kWidth>* pending, int n, CommitSmem<S>& s,
                                             float4 (&write)[kMaxTokens]) {
  const int tid = threadIdx.x;
  float2 row[kMaxTokens];
#pragma unroll
  for (int t = 0; t < kMaxTokens; t++) {
    if (t >= n) break;
    row[t] = make_float2(pending[t].decay[tid], pending[t].k[tid]);
    write[t] = reinterpret_cast<const float4*>(pending[t].write)[(tid & 31) % S::kLanes];
  }
#pragma unroll
  for (int t = 0; t < kMaxTokens; t++) {
    if (t >= n) break;
    s.token[t][tid] = row[t];
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kMost) commit_kernel(const __grid_constant__ KdaCommitSm90 a) {
  using T = typename S::State;
  constexpr int kD = S::kWidth;
  LINNET_DYNAMIC_SHARED(smem_bytes, 128);
  auto& s = *reinterpret_cast<CommitSmem<S>*>(smem_bytes);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, row0 = warp * kDecodeRows;
  const int sequence = blockIdx.x / a.n_heads, head = blockIdx.x % a.n_heads;
  if (!a.settled) wait_for_dependency();
  const int slot = a.slot[sequence], n = min(a.n_accepted[sequence], a.n_tokens);
  if (slot < 0 || n <= 0) return wait_for_dependency();  // so that this grid never ends before the one before it
  T* const state = rows_of<S>(static_cast<T*>(a.state), a.slot, a.n_heads, blockIdx.x, warp);
  const uint32_t full = smem_address(&s.full[warp]);
  if (lane == 0) {
    bulk_prefetch(state, S::kRowBytes);
    barrier_init(full, 1);
    fence_barrier_init();
    barrier_expect(full, S::kRowBytes);
    bulk_load(smem_address(s.state[row0]), state, S::kRowBytes, full);
  }
  __syncwarp();
  const auto* const pending =
      static_cast<const Pending<kD>*>(a.pending) + static_cast<int64_t>(blockIdx.x) * a.n_tokens;
  float4 write[kMaxTokens];
  const Windows windows = load_windows<kD>(a, slot, head, pending, n);
  load_pending<S>(pending, n, s, write);
  __syncwarp();
  wait_for_dependency();
  launch_dependents();
  store_windows<kD>(a, slot, head, windows);
  barrier_wait(full, 0);
  const int four = lane % S::kLanes;
  const auto row = [&](int i) { return row0 + i * S::kAtOnce + lane / S::kLanes; };
#pragma unroll 4
  for (int i = 0; i < S::kFours; i++) {
    float4 x = floats_of(s.state[row(i)][four]);
#pragma unroll
    for (int t = 0; t < kMaxTokens; t++) {
      if (t >= n) break;
      const float2 f = s.token[t][row(i)];
      x = scaled(x, f.x);
      add_scaled(x, write[t], f.y);
      x = floats_of(four_of<T>(x));  // what a step leaves in the pool
    }
    reinterpret_cast<Four<T>*>(state)[(row(i) - row0) * S::kLanes + four] = four_of<T>(x);
  }
}

template <class S>
cudaError_t launch_commit(const KdaCommitSm90& a, cudaStream_t stream) {
  constexpr int kBytes = static_cast<int>(sizeof(CommitSmem<S>));
  static_assert(kBytes <= S::kFewBytes && S::kMost * (kBytes + 1024) <= 228 * 1024);
  const unsigned grid = static_cast<unsigned>(a.n_sequences) * a.n_heads;
  const bool few = grid <= (a.settled ? 2 : 1) * S::kFew * kSms;
  return launch_beside<S::kThreads>(commit_kernel<S>, grid, few ? S::kFewBytes : kBytes, a.settled || few, stream, a);
}

}  // namespace linnet::ops::sm90::step
