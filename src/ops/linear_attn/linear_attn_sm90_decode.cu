// kda_sm90 decode: one token of B sequences, from the projections' outputs to the gated norm's output. Memory-bound.
//
// Grid    one CTA of 128 threads per (sequence, head), three an SM. Thread = channel = value column for the token's vectors;
//         a warp owns 32 key channels of the state (16 KB, contiguous), a lane 4 value columns of them.
// Tile    the state in shared memory: each warp asks for its rows by one prefetch into the L2 and one bulk copy at the start;
//         convolution, norms and gate are computed while they are under way. Read twice, written back from registers.
// Chain   o = S'^T q + u (k . q) with S' the decayed state, so both products read S' once and the output needs no second pass.
// Smem    65,536 B state + 7 KB: 192 KB of loads in flight an SM. 1 mbarrier a warp, 3 __syncthreads.
//         Registers 66, spills 0.
// Start   slot is read, and its state prefetched, before the grid before has ended (see kda_decode_sm90); data only after.
// Numeric all f32 but the bf16 inputs and outputs; q, k stay f32 after their norm. Bitwise deterministic, whatever the batch.
// Traffic per head: state 2 * 65,536 B; inputs 1,282 B, convolution window 2 * 2,304 B and weights 6,144 B (cached across the batch).
// Floor   B=256, H=32: 1,122 MB / 4.23 TB/s (copy, same run) = 265.5 us.
// Reached 274.2 us = 0.97 of the floor; bench/records/20261122-kda-sm90-decode.jsonl. B=32: 0.80, the grid's start and drain (2.6 waves).
#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kRows = kDim / kWarps;  // key channels of a warp
constexpr int kQuads = kDim / 4;
constexpr uint32_t kRowBytes = kRows * kDim * sizeof(float);
constexpr int kWindow = kKdaSm90ConvTaps - 1;

struct Smem {
  float4 state[kDim][kQuads];
  float4 token[kDim];             // per key channel: decay, k and q before their norms
  float4 read[kWarps][kQuads];    // per warp: S'^T k over its key channels
  float4 answer[kWarps][kQuads];  // per warp: S'^T q
  float write[kDim];              // u / |k|
  float sums[3][kWarps];          // per warp: |q|^2, |k|^2, q k
  float squares[kWarps];          // per warp: |o|^2
  uint64_t full[kWarps];          // the warp's rows have arrived
};
static_assert(3 * (sizeof(Smem) + 1024) <= 228 * 1024);

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int bit = 16; bit; bit /= 2) x += __shfl_xor_sync(~0u, x, bit);
  return x;
}
// Sum of four, in pairs.
__device__ __forceinline__ float sum4(const float* x, int stride) {
  return (x[0] + x[stride]) + (x[2 * stride] + x[3 * stride]);
}

struct Window {
  __nv_bfloat16 x[kWindow + 1];  // oldest first, the current token last
};

__device__ __forceinline__ __nv_bfloat16* window_of(const KdaDecodeSm90& a, int slot, int stream, int channel) {
  const int width = a.n_heads * kDim;
  return static_cast<__nv_bfloat16*>(a.conv_state) +
         ((static_cast<int64_t>(slot) * 3 + stream) * width + channel) * kWindow;
}

__device__ __forceinline__ Window load_window(const KdaDecodeSm90& a, int sequence, int slot, int stream, int channel) {
  const __nv_bfloat16* past = window_of(a, slot, stream, channel);
  return {past[0], past[1], past[2],
          static_cast<const __nv_bfloat16*>(
              a.qkv)[(static_cast<int64_t>(sequence) * 3 + stream) * a.n_heads * kDim + channel]};
}

__device__ __forceinline__ void store_window(const KdaDecodeSm90& a, int slot, int stream, int channel,
                                             const Window& w) {
  __nv_bfloat16* past = window_of(a, slot, stream, channel);
  for (int j = 0; j < kWindow; j++) past[j] = w.x[j + 1];
}

// Convolution of one channel of one stream, and SiLU. The layer's activations are bf16.
__device__ __forceinline__ float convolve(const KdaDecodeSm90& a, int stream, int channel, const Window& x) {
  const float4 w =
      *reinterpret_cast<const float4*>(a.conv_weight + (static_cast<int64_t>(stream) * a.n_heads * kDim + channel) * 4);
  const float y = w.x * __bfloat162float(x.x[0]) + w.y * __bfloat162float(x.x[1]) + w.z * __bfloat162float(x.x[2]) +
                  w.w * __bfloat162float(x.x[3]);
  return __bfloat162float(__float2bfloat16_rn(y * sigmoid(y)));
}

// What the thread's channel brings: convolved q, k, v, decay, and the inputs of the output norm.
struct Inputs {
  Window window[3];
  float q, k, v, decay, beta, gate, norm_weight;
};

template <KdaGate kGate>
__device__ __forceinline__ Inputs load_inputs(const KdaDecodeSm90& a, int sequence, int head, int slot, int tid) {
  const int channel = head * kDim + tid;
  const int64_t row = static_cast<int64_t>(sequence) * a.n_heads, at = row * kDim + channel;
  Inputs in;
#pragma unroll
  for (int i = 0; i < 3; i++) in.window[i] = load_window(a, sequence, slot, i, channel);
  const float z = __bfloat162float(static_cast<const __nv_bfloat16*>(a.z)[at]);
  in.beta = __bfloat162float(static_cast<const __nv_bfloat16*>(a.beta)[row + head]);
  in.gate = __bfloat162float(static_cast<const __nv_bfloat16*>(a.out_gate)[at]);
  in.norm_weight = a.norm_weight[tid];
  in.decay =
      exp2_fast(log2_decay<kGate>(z, a.gate.dt_bias[channel] * kLog2e, __expf(a.gate.a_log[head]), a.gate.lower_bound));
  in.q = convolve(a, 0, channel, in.window[0]);
  in.k = convolve(a, 1, channel, in.window[1]);
  in.v = convolve(a, 2, channel, in.window[2]);
  return in;
}

// sum += x f
__device__ __forceinline__ void add_scaled(float4& sum, float4 x, float f) {
  sum.x = fmaf(x.x, f, sum.x);
  sum.y = fmaf(x.y, f, sum.y);
  sum.z = fmaf(x.z, f, sum.z);
  sum.w = fmaf(x.w, f, sum.w);
}
__device__ __forceinline__ float4 scaled(float4 x, float f) { return make_float4(x.x * f, x.y * f, x.z * f, x.w * f); }

// The window of one channel in all three streams.
__device__ __forceinline__ void prefetch_window(const KdaDecodeSm90& a, int slot, int channel) {
#pragma unroll
  for (int i = 0; i < 3; i++) asm volatile("prefetch.global.L2 [%0];" ::"l"(window_of(a, slot, i, channel)));
}

// The token's vectors into shared memory, the window one step on.
template <KdaGate kGate>
__device__ __forceinline__ Inputs take_token(const KdaDecodeSm90& a, int sequence, int head, int slot, Smem& s) {
  const int tid = threadIdx.x, warp = tid >> 5;
  const Inputs in = load_inputs<kGate>(a, sequence, head, slot, tid);
  s.token[tid] = make_float4(in.decay, in.k, in.q, 0);
  const float qq = warp_sum(in.q * in.q), kk = warp_sum(in.k * in.k), qk = warp_sum(in.q * in.k);
  if ((tid & 31) == 0) {
    s.sums[0][warp] = qq;
    s.sums[1][warp] = kk;
    s.sums[2][warp] = qk;
  }
#pragma unroll
  for (int i = 0; i < 3; i++) store_window(a, slot, i, head * kDim + tid, in.window[i]);
  return in;
}

template <KdaGate kGate>
__global__ void __launch_bounds__(kThreads, 3) decode_kernel(const __grid_constant__ KdaDecodeSm90 a) {
  extern __shared__ __align__(128) char smem_bytes[];
  Smem& s = *reinterpret_cast<Smem*>(smem_bytes);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, row0 = warp * kRows;
  const int sequence = blockIdx.x / a.n_heads, head = blockIdx.x % a.n_heads;
  const int slot = a.slot[sequence];
  if (slot < 0) return;
  float* const state = a.state + ((static_cast<int64_t>(slot) * a.n_heads + head) * kDim + row0) * kDim;
  const uint32_t full = smem_address(&s.full[warp]);
  prefetch_window(a, slot, head * kDim + tid);
  if (lane == 0) {
    bulk_prefetch(state, kRowBytes);
    barrier_init(full, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncwarp();
  wait_for_dependency();
  launch_dependents();
  if (lane == 0) {
    barrier_expect(full, kRowBytes);
    bulk_load(smem_address(s.state[row0]), state, kRowBytes, full);
  }
  const Inputs in = take_token<kGate>(a, sequence, head, slot, s);
  __syncthreads();

  barrier_wait(full, 0);
  float4 read = {}, answer = {};
#pragma unroll
  for (int i = 0; i < kRows; i++) {
    const float4 f = s.token[row0 + i], x = scaled(s.state[row0 + i][lane], f.x);
    add_scaled(read, x, f.y);
    add_scaled(answer, x, f.z);
  }
  s.read[warp][lane] = read;
  s.answer[warp][lane] = answer;
  __syncthreads();

  const float q_norm = rsqrtf(sum4(s.sums[0], 1) + kL2Eps) * a.scale, k_norm = rsqrtf(sum4(s.sums[1], 1) + kL2Eps);
  const float e = sum4(reinterpret_cast<const float*>(s.read) + tid, kDim) * k_norm;
  const float o_state = sum4(reinterpret_cast<const float*>(s.answer) + tid, kDim) * q_norm;
  const float u = (in.v - e) * sigmoid(in.beta);
  const float o = fmaf(u, sum4(s.sums[2], 1) * q_norm * k_norm, o_state);
  const float square = warp_sum(o * o);
  s.write[tid] = u * k_norm;
  if (lane == 0) s.squares[warp] = square;
  __syncthreads();

  const float4 write = reinterpret_cast<const float4*>(s.write)[lane];
#pragma unroll
  for (int i = 0; i < kRows; i++) {
    const float4 f = s.token[row0 + i];
    float4 x = scaled(s.state[row0 + i][lane], f.x);
    add_scaled(x, write, f.y);
    reinterpret_cast<float4*>(state)[i * kQuads + lane] = x;
  }
  const float r = rsqrtf(sum4(s.squares, 1) * (1.f / kDim) + a.norm_eps);
  static_cast<__nv_bfloat16*>(a.out)[static_cast<int64_t>(blockIdx.x) * kDim + tid] =
      __float2bfloat16_rn(o * r * in.norm_weight * sigmoid(in.gate));
}

// While two CTAs an SM hold all heads, the grid starts beside the one before, and its shared memory admits no third CTA: those that
// come early would spread unevenly over the SMs.
constexpr unsigned kHeadsBeside = 2 * 132;
constexpr int kHalfSmBytes = 100 * 1024;

template <KdaGate kGate>
cudaError_t launch(const KdaDecodeSm90& a, cudaStream_t stream) {
  const auto kernel = decode_kernel<kGate>;
  if (const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kHalfSmBytes))
    return e;
  const unsigned grid = static_cast<unsigned>(a.n_sequences) * a.n_heads;
  cudaLaunchAttribute beside = {};
  beside.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  beside.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = grid <= kHeadsBeside ? kHalfSmBytes : sizeof(Smem);
  config.stream = stream;
  config.attrs = &beside;
  config.numAttrs = grid <= kHeadsBeside;
  return cudaLaunchKernelEx(&config, kernel, a);
}

}  // namespace

}  // namespace linnet::ops::sm90

namespace linnet::ops {

int kda_decode_sm90(const KdaDecodeSm90& a, CUstream_st* stream) noexcept {
  if (a.n_sequences == 0 || a.n_heads == 0) return cudaSuccess;
  return a.gate.gate == KdaGate::softplus ? sm90::launch<KdaGate::softplus>(a, stream)
                                          : sm90::launch<KdaGate::lower_bound>(a, stream);
}

}  // namespace linnet::ops
