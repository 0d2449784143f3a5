// kda_sm90 decode: one token of B sequences, from the projections' outputs to the gated norm's output. Memory-bound.
//
// Grid    one CTA of 128 threads per (sequence, head), three an SM. Thread = channel = value column for the token's vectors;
//         a warp owns 32 key channels of the state (16 KB, contiguous), a lane 4 value columns of them.
// Tile    the state in shared memory: each warp asks for its rows by one prefetch into the L2 and one bulk copy at the start;
//         convolution, norms and gate are computed while they are under way. Read twice, written back from registers.
// Chain   o = S'^T q + u (k . q) with S' the decayed state, so both products read S' once and the output needs no second pass.
// Smem    65,536 B state + 7 KB: 192 KB of loads in flight an SM. 1 mbarrier a warp, 3 __syncthreads.
//         Registers 63, spills 0.
// Start   slot is read, and its state prefetched, before the grid before has ended; with pools_settled states, windows and weights are
//         read, too, so that only q, k, v, z, beta and the output gate remain to be waited for (see kda_decode_sm90).
// Numeric all f32 but the bf16 inputs and outputs; q, k stay f32 after their norm. Bitwise deterministic, whatever the batch.
// Traffic per head: state 2 * 65,536 B; inputs 1,282 B, convolution window 2 * 2,304 B and weights 6,144 B (cached across the batch).
// Floor   B=256, H=32: 1,122 MB / 4.23 TB/s (copy, same run) = 265.5 us.
// Reached 271.8 us = 0.98 of the floor; B=32 37.5 us = 0.89; bench/records/20261122-kda-sm90-decode.jsonl.
#include "ops/linear_attn/linear_attn_sm90_decode.cuh"

namespace linnet::ops::sm90 {
namespace {

// The grid starts beside the one before, which may be the same step of other sequences, where that helps: always once the pools are settled,
// else while two CTAs an SM hold all heads. Up to two such waves (one, unsettled) shared memory admits no third CTA: those that come early
// would spread unevenly over the SMs.
// All CTAs of the first wave go on at the same moment and store together. Meanwhile so many of them have a head of the second wave fetched
// into the L2; more evict each other.
constexpr unsigned kHeadsAhead = 132;

struct Smem {
  float4 state[kDim][kQuads];
  float4 token[kDim];                   // per key channel: decay, k and q before their norms
  float4 read[kDecodeWarps][kQuads];    // per warp: S'^T k over its key channels
  float4 answer[kDecodeWarps][kQuads];  // per warp: S'^T q
  float write[kDim];                    // u / |k|
  float sums[3][kDecodeWarps];          // per warp: |q|^2, |k|^2, q k
  float squares[kDecodeWarps];          // per warp: |o|^2
  uint64_t full[kDecodeWarps];          // the warp's rows have arrived
};
static_assert(3 * (sizeof(Smem) + 1024) <= 228 * 1024);

// One stream of the thread's channel: the window, and the convolution's weights.
struct Taps {
  __nv_bfloat16 past[kWindow];
  float4 weights;
};
// What the token does not bring: windows, weights, the gate's constants.
struct Settled {
  Taps taps[3];
  Rates rates;
  float norm_weight;
};
__device__ __forceinline__ __nv_bfloat16* window_of(const KdaDecodeSm90& a, int slot, int stream, int channel) {
  return static_cast<__nv_bfloat16*>(a.conv_state) + window_at(a.n_heads, slot, stream, channel);
}
__device__ __forceinline__ Settled load_settled(const KdaDecodeSm90& a, int slot, int head, int tid) {
  const int channel = head * kDim + tid;
  Settled x;
#pragma unroll
  for (int i = 0; i < 3; i++) {
    const __nv_bfloat16* past = window_of(a, slot, i, channel);
    x.taps[i] = {{past[0], past[1], past[2]}, conv_weights(a.conv_weight, a.n_heads, i, channel)};
  }
  x.rates = load_rates(a.gate, head, channel);
  x.norm_weight = a.norm_weight[tid];
  return x;
}
__device__ __forceinline__ void prefetch_windows(const KdaDecodeSm90& a, int slot, int channel) {
#pragma unroll
  for (int i = 0; i < 3; i++) prefetch_line(window_of(a, slot, i, channel));
}

// What the projections bring, of the thread's channel.
struct Token {
  __nv_bfloat16 x[3], z, gate, beta;
};
__device__ __forceinline__ Token load_token(const KdaDecodeSm90& a, int sequence, int head, int tid) {
  const int64_t row = static_cast<int64_t>(sequence) * a.n_heads + head;
  Token t;
#pragma unroll
  for (int i = 0; i < 3; i++)
    t.x[i] = static_cast<const __nv_bfloat16*>(
        a.qkv)[((static_cast<int64_t>(sequence) * 3 + i) * a.n_heads + head) * kDim + tid];
  t.z = static_cast<const __nv_bfloat16*>(a.z)[row * kDim + tid];
  t.gate = static_cast<const __nv_bfloat16*>(a.out_gate)[row * kDim + tid];
  t.beta = static_cast<const __nv_bfloat16*>(a.beta)[row];
  return t;
}

// The token's vectors into shared memory, the windows one step on. Returns v of the thread's value column.
template <KdaGate kGate>
__device__ __forceinline__ float take_token(const KdaDecodeSm90& a, int slot, int channel, const Settled& settled,
                                            const Token& token, Smem& s) {
  const int tid = threadIdx.x;
  float y[3];
#pragma unroll
  for (int i = 0; i < 3; i++) y[i] = convolve(settled.taps[i].weights, settled.taps[i].past, token.x[i]);
  s.token[tid] = make_float4(decay_of<kGate>(__bfloat162float(token.z), settled.rates), y[1], y[0], 0);
  put_sums(y[0], y[1], s.sums, tid >> 5, tid & 31);
#pragma unroll
  for (int i = 0; i < 3; i++) {
    __nv_bfloat16* past = window_of(a, slot, i, channel);
    past[0] = settled.taps[i].past[1], past[1] = settled.taps[i].past[2], past[2] = token.x[i];
  }
  return y[2];
}

// kSettled: KdaDecodeSm90::pools_settled. n_places: how many CTAs run at once, when there are more heads than that.
template <KdaGate kGate, bool kSettled>
__global__ void __launch_bounds__(kDecodeThreads, 3)
    decode_kernel(const __grid_constant__ KdaDecodeSm90 a, unsigned n_places) {
  LINNET_DYNAMIC_SHARED(smem_bytes, 128);
  Smem& s = *reinterpret_cast<Smem*>(smem_bytes);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, row0 = warp * kDecodeRows;
  const int sequence = blockIdx.x / a.n_heads, head = blockIdx.x % a.n_heads, channel = head * kDim + tid;
  const int slot = a.slot[sequence];
  if (slot < 0) return wait_for_dependency();  // so that this grid never ends before the one before it
  float* const state = rows_of(a.state, a.slot, a.n_heads, blockIdx.x, warp);
  const uint32_t full = smem_address(&s.full[warp]);
  const auto load_state = [&] {
    barrier_expect(full, kDecodeRowBytes);
    bulk_load(smem_address(s.state[row0]), state, kDecodeRowBytes, full);
  };
  const float* ahead = nullptr;
  if (lane == 0) {
    bulk_prefetch(state, kDecodeRowBytes);
    barrier_init(full, 1);
    fence_barrier_init();
    if (kSettled) load_state();
    if (kSettled && blockIdx.x < kHeadsAhead && n_places && blockIdx.x + n_places < gridDim.x)
      ahead = rows_of(a.state, a.slot, a.n_heads, blockIdx.x + n_places, warp);
  }
  __syncwarp();
  Settled settled;
  if (kSettled) {
    settled = load_settled(a, slot, head, tid);
  } else {
    prefetch_windows(a, slot, channel);
  }
  wait_for_dependency();
  launch_dependents();
  if (ahead) bulk_prefetch(ahead, kDecodeRowBytes);
  if (!kSettled && lane == 0) load_state();
  const Token token = load_token(a, sequence, head, tid);
  if (!kSettled) settled = load_settled(a, slot, head, tid);
  const float v = take_token<kGate>(a, slot, channel, settled, token, s);
  __syncthreads();

  barrier_wait(full, 0);
  float4 read = {}, answer = {};
#pragma unroll
  for (int i = 0; i < kDecodeRows; i++) {
    const float4 f = s.token[row0 + i], x = scaled(s.state[row0 + i][lane], f.x);
    add_scaled(read, x, f.y);
    add_scaled(answer, x, f.z);
  }
  s.read[warp][lane] = read;
  s.answer[warp][lane] = answer;
  __syncthreads();

  const Column c =
      column_of(reinterpret_cast<const float*>(s.read) + tid, reinterpret_cast<const float*>(s.answer) + tid,
                factors_of(s.sums, __bfloat162float(token.beta), a.scale), v);
  const float square = warp_sum_squares(c.o);
  s.write[tid] = c.write;
  if (lane == 0) s.squares[warp] = square;
  __syncthreads();

  const float4 write = reinterpret_cast<const float4*>(s.write)[lane];
#pragma unroll
  for (int i = 0; i < kDecodeRows; i++) {
    const float4 f = s.token[row0 + i];
    float4 x = scaled(s.state[row0 + i][lane], f.x);
    add_scaled(x, write, f.y);
    reinterpret_cast<float4*>(state)[i * kQuads + lane] = x;
  }
  static_cast<__nv_bfloat16*>(a.out)[static_cast<int64_t>(blockIdx.x) * kDim + tid] =
      normed(c.o, s.squares, a.norm_eps, settled.norm_weight, sigmoid_fast(__bfloat162float(token.gate)));
}

template <KdaGate kGate, bool kSettled>
cudaError_t launch(const KdaDecodeSm90& a, cudaStream_t stream) {
  const unsigned grid = static_cast<unsigned>(a.n_sequences) * a.n_heads;
  const bool by_two = grid <= (kSettled ? 4 : 2) * kSms;
  return launch_beside(decode_kernel<kGate, kSettled>, grid, by_two ? kHalfSmBytes : static_cast<int>(sizeof(Smem)),
                       kSettled || by_two, stream, a, (by_two ? 2 : 3) * kSms);
}

template <KdaGate kGate>
cudaError_t launch(const KdaDecodeSm90& a, cudaStream_t stream) {
  return a.pools_settled ? launch<kGate, true>(a, stream) : launch<kGate, false>(a, stream);
}

}  // namespace

}  // namespace linnet::ops::sm90

namespace linnet::ops {

int kda_decode_sm90(const KdaDecodeSm90& a, CUstream_st* stream) noexcept {
  if (a.gate.gate > KdaGate::lower_bound) return cudaErrorInvalidValue;
  if (a.n_sequences == 0 || a.n_heads == 0) return cudaSuccess;
  return a.gate.gate == KdaGate::softplus ? sm90::launch<KdaGate::softplus>(a, stream)
                                          : sm90::launch<KdaGate::lower_bound>(a, stream);
}

}  // namespace linnet::ops
