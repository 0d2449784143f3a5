// The kernel of one decode step for Hopper, for all of its builds; linear_attn_sm90_decode.cu has its story.
// decode_kernel: registers 94, spills 0. Plain builds 64, bf16 states 56, heads of 64 94 and 76.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_decode.cuh"

namespace linnet::ops::sm90::step {

// Builds with options, or other heads and states than the plain ones: linear_attn_sm90_decode_options.cu.
cudaError_t launch_decode_options(const KdaDecodeSm90& args, cudaStream_t stream);

// The grid starts beside the one before, which may be the same step of other sequences, where that helps: always once the pools are settled,
// else while two CTAs an SM hold all heads. Up to two such waves (one, unsettled) shared memory admits no third CTA: those that come early
// would spread unevenly over the SMs.
// All CTAs of the first wave go on at the same moment and store together. Meanwhile so many of them have a head of the second wave fetched
// into the L2; more evict each other.
constexpr unsigned kBytesAhead = 132 * 65536;

// What a build of the kernel is made for. kSettled: KdaDecodeSm90::pools_settled. Plain: the layer's call, without code for options.
template <KdaGate kGate_, bool kSettled_, int kD, class State, bool kPlain_>
struct DecodeBuild : DecodeShape<kD, State> {
  using S = DecodeShape<kD, State>;
  static constexpr KdaGate kGate = kGate_;
  static constexpr bool kSettled = kSettled_, kPlain = kPlain_;
  static constexpr unsigned kAhead = kBytesAhead / S::kStateBytes;
};

template <class S>
struct DecodeSmem {
  Four<typename S::State> state[S::kWidth][S::kLanes];
  float4 token[S::kWidth];              // per key channel: decay, k and q before their norms
  float4 read[S::kParts][S::kLanes];    // parts of S'^T k, over key channels
  float4 answer[S::kParts][S::kLanes];  // of S'^T q
  float write[S::kWidth];               // u / |k|
  float sums[3][S::kWarps];             // per warp: |q|^2, |k|^2, q k
  float squares[S::kWarps];             // per warp: |o|^2
  uint64_t full[S::kWarps];             // the warp's rows have arrived
};

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
template <int kD>
__device__ __forceinline__ __nv_bfloat16* window_of(const KdaDecodeSm90& a, int slot, int stream, int channel) {
  return static_cast<__nv_bfloat16*>(a.conv_state) + window_at<kD>(a.n_heads, slot, stream, channel);
}
template <class B>
__device__ __forceinline__ Settled load_settled(const KdaDecodeSm90& a, int slot, int head, int tid) {
  constexpr int kD = B::kWidth;
  const int channel = head * kD + tid;
  Settled x;
#pragma unroll
  for (int i = 0; i < 3; i++) {
    const __nv_bfloat16* past = window_of<kD>(a, slot, i, channel);
    x.taps[i] = {{past[0], past[1], past[2]}, conv_weights<kD>(a.conv_weight, a.n_heads, i, channel)};
  }
  x.rates = load_rates<B::kGate>(a.gate, head, channel);
  x.norm_weight = a.norm_weight[tid];
  return x;
}
template <int kD>
__device__ __forceinline__ void prefetch_windows(const KdaDecodeSm90& a, int slot, int channel) {
#pragma unroll
  for (int i = 0; i < 3; i++) prefetch_line(window_of<kD>(a, slot, i, channel));
}

// What the projections bring, of the thread's channel.
struct Token {
  __nv_bfloat16 x[3], z, gate, beta;
};
template <class B>
__device__ __forceinline__ Token load_token(const KdaDecodeSm90& a, int sequence, int head, int tid) {
  constexpr int kD = B::kWidth;
  const int64_t row = static_cast<int64_t>(sequence) * a.n_heads + head;
  Token t;
#pragma unroll
  for (int i = 0; i < 3; i++)
    t.x[i] = static_cast<const __nv_bfloat16*>(
        a.qkv)[((static_cast<int64_t>(sequence) * 3 + i) * a.n_heads + head) * kD + tid];
  t.z = static_cast<const __nv_bfloat16*>(a.z)[is_of_head(B::kGate) ? row : row * kD + tid];
  t.gate = static_cast<const __nv_bfloat16*>(a.out_gate)[row * kD + tid];
  t.beta = static_cast<const __nv_bfloat16*>(a.beta)[row];
  return t;
}

// The token's vectors into shared memory, the windows one step on. Returns v of the thread's value column.
template <class B>
__device__ __forceinline__ float take_token(const KdaDecodeSm90& a, int slot, int channel, const Settled& settled,
                                            const Token& token, DecodeSmem<typename B::S>& s) {
  constexpr int kD = B::kWidth;
  const int tid = threadIdx.x;
  float y[3];
#pragma unroll
  for (int i = 0; i < 3; i++) y[i] = convolve(settled.taps[i].weights, settled.taps[i].past, token.x[i]);
  s.token[tid] = make_float4(decay_of<B::kGate>(__bfloat162float(token.z), settled.rates), y[1], y[0], 0);
  put_sums(y[0], y[1], s.sums, tid >> 5, tid & 31);
#pragma unroll
  for (int i = 0; i < 3; i++) {
    __nv_bfloat16* past = window_of<kD>(a, slot, i, channel);
    past[0] = settled.taps[i].past[1], past[1] = settled.taps[i].past[2], past[2] = token.x[i];
  }
  return y[2];
}

// n_places: how many CTAs run at once, when there are more heads than that.
template <class B>
__global__ void __launch_bounds__(B::kThreads, B::kMost)
    decode_kernel(const __grid_constant__ KdaDecodeSm90 a, unsigned n_places) {
  using T = typename B::State;
  constexpr int kD = B::kWidth;
  LINNET_DYNAMIC_SHARED(smem_bytes, 128);
  auto& s = *reinterpret_cast<DecodeSmem<typename B::S>*>(smem_bytes);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, row0 = warp * kDecodeRows;
  const int sequence = blockIdx.x / a.n_heads, head = blockIdx.x % a.n_heads, channel = head * kD + tid;
  const int slot = a.slot[sequence];
  if (slot < 0) return wait_for_dependency();  // so that this grid never ends before the one before it
  T* const state = rows_of<B>(static_cast<T*>(a.state), a.slot, a.n_heads, blockIdx.x, warp);
  const uint32_t full = smem_address(&s.full[warp]);
  const auto load_state = [&] {
    barrier_expect(full, B::kRowBytes);
    bulk_load(smem_address(s.state[row0]), state, B::kRowBytes, full);
  };
  const T* ahead = nullptr;
  if (lane == 0) {
    bulk_prefetch(state, B::kRowBytes);
    barrier_init(full, 1);
    fence_barrier_init();
    if (B::kSettled) load_state();
    if (B::kSettled && blockIdx.x < B::kAhead && n_places && blockIdx.x + n_places < gridDim.x)
      ahead = rows_of<B>(static_cast<T*>(a.state), a.slot, a.n_heads, blockIdx.x + n_places, warp);
  }
  __syncwarp();
  Settled settled;
  if (B::kSettled) {
    settled = load_settled<B>(a, slot, head, tid);
  } else {
    prefetch_windows<kD>(a, slot, channel);
  }
  wait_for_dependency();
  launch_dependents();
  if (ahead) bulk_prefetch(ahead, B::kRowBytes);
  if (!B::kSettled && lane == 0) load_state();
  const Token token = load_token<B>(a, sequence, head, tid);
  if (!B::kSettled) settled = load_settled<B>(a, slot, head, tid);
  const float v = take_token<B>(a, slot, channel, settled, token, s);
  __syncthreads();

  // Four i of the lane: a row of the state, and the value columns from 4 four on.
  const int four = lane % B::kLanes;
  const auto row = [&](int i) { return row0 + i * B::kAtOnce + lane / B::kLanes; };
  barrier_wait(full, 0);
  float4 read = {}, answer = {};
#pragma unroll
  for (int i = 0; i < B::kFours; i++) {
    const float4 f = s.token[row(i)], x = scaled(floats_of(s.state[row(i)][four]), f.x);
    add_scaled(read, x, f.y);
    add_scaled(answer, x, f.z);
  }
  const int part = warp * B::kAtOnce + lane / B::kLanes;
  s.read[part][four] = read;
  s.answer[part][four] = answer;
  __syncthreads();

  const Column c =
      column_of<kD>(reinterpret_cast<const float*>(s.read) + tid, reinterpret_cast<const float*>(s.answer) + tid,
                    factors_of(s.sums, __bfloat162float(token.beta), a.scale), v);
  const float square = warp_sum_squares(c.o);
  s.write[tid] = c.write;
  if (lane == 0) s.squares[warp] = square;
  __syncthreads();

  const float4 write = reinterpret_cast<const float4*>(s.write)[four];
#pragma unroll
  for (int i = 0; i < B::kFours; i++) {
    const float4 f = s.token[row(i)];
    float4 x = scaled(floats_of(s.state[row(i)][four]), f.x);
    add_scaled(x, write, f.y);
    reinterpret_cast<Four<T>*>(state)[(row(i) - row0) * B::kLanes + four] = four_of<T>(x);
  }
  const float gate = output_gate(__bfloat162float(token.gate), !B::kPlain && a.out_gate_silu);
  static_cast<__nv_bfloat16*>(a.out)[static_cast<int64_t>(blockIdx.x) * kD + tid] =
      normed<kD>(c.o, s.squares, a.norm_eps, settled.norm_weight, gate);
}

template <class B>
cudaError_t launch_decode(const KdaDecodeSm90& a, cudaStream_t stream) {
  constexpr int kBytes = static_cast<int>(sizeof(DecodeSmem<typename B::S>));
  static_assert(kBytes <= B::kFewBytes && B::kMost * (kBytes + 1024) <= 228 * 1024);
  const unsigned grid = static_cast<unsigned>(a.n_sequences) * a.n_heads;
  const bool few = grid <= (B::kSettled ? 2 : 1) * B::kFew * kSms;
  return launch_beside<B::kThreads>(decode_kernel<B>, grid, few ? B::kFewBytes : kBytes, B::kSettled || few, stream, a,
                                    (few ? B::kFew : B::kMost) * kSms);
}
template <KdaGate kGate, int kD, class State, bool kPlain>
cudaError_t launch_decode(const KdaDecodeSm90& a, cudaStream_t stream) {
  return a.pools_settled ? launch_decode<DecodeBuild<kGate, true, kD, State, kPlain>>(a, stream)
                         : launch_decode<DecodeBuild<kGate, false, kD, State, kPlain>>(a, stream);
}

}  // namespace linnet::ops::sm90::step
