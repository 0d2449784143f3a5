// kda_sm90 decode: one token of B sequences, from the projections' outputs to the gated norm's output. Memory-bound.
//
// Grid    a cluster of kSplit = 2 CTAs of 128 threads per (sequence, head), 64 value columns each: finer grains than whole heads for the
//         last wave, and twice the loads in flight when the batch is small. (Measured: 1 and 4 are slower.)
// Tile    the state's columns in registers: thread (row group r, quad c) owns 32 / kSplit key channels and 4 value columns. Its
//         16-byte loads are issued first; convolution, norms and gate are computed while they are under way.
// Chain   o = S'^T q + u (k . q) with S' the decayed state, so both products read S' once and the output needs no second pass.
// Smem    < 7 KB. 3 __syncthreads and one cluster barrier (the norm over all value columns; it also orders the
//         window's update after every CTA's read of it). Registers <= 128: 4 CTAs per SM, 128 KB of loads in flight.
// Numeric all f32 but the bf16 inputs and outputs; q, k stay f32 after their norm. Bitwise deterministic.
// Traffic per head: state 2 * 65,536 B; inputs 1,282 B, convolution window 2 * 2,304 B and weights 6,144 B (cached across the batch).
#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int kThreads = 128, kSplit = 2;
constexpr int kQuads = kDim / 4 / kSplit, kRows = kDim * kQuads / kThreads;  // of a CTA; key channels of a thread
constexpr int kWindow = kKdaSm90ConvTaps - 1;

struct Smem {
  float q[kDim], k[kDim], v[kDim], decay[kDim];
  float sums[4][3];          // per warp: |q|^2, |k|^2, q k
  float4 read[4][kQuads];    // per warp: S'^T k over its key channels
  float4 answer[4][kQuads];  // per warp: S'^T q
  float square[kSplit];      // per CTA of the cluster: |o|^2 over its columns
};

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int bit = 16; bit; bit /= 2) x += __shfl_xor_sync(~0u, x, bit);
  return x;
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

__device__ __forceinline__ float4 operator*(float4 a, float b) {
  return make_float4(a.x * b, a.y * b, a.z * b, a.w * b);
}
__device__ __forceinline__ float4 operator+(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

template <KdaGate kGate>
__global__ void __cluster_dims__(kSplit, 1, 1) __launch_bounds__(kThreads, 4)
    decode_kernel(const __grid_constant__ KdaDecodeSm90 a) {
  __shared__ Smem s;
  const int part = blockIdx.x % kSplit, head = blockIdx.x / kSplit % a.n_heads,
            sequence = blockIdx.x / kSplit / a.n_heads;
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, quad = tid % kQuads, row0 = tid / kQuads * kRows;
  const int slot = a.slot[sequence];
  if (slot < 0) return;  // the whole cluster
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::
                   : "memory");  // waited for before the partner's memory is written
  const int channel = head * kDim + tid;
  const int64_t row = static_cast<int64_t>(sequence) * a.n_heads * kDim;
  float4* state = reinterpret_cast<float4*>(a.state + (static_cast<int64_t>(slot) * a.n_heads + head) * kDim * kDim) +
                  row0 * (kDim / 4) + part * kQuads + quad;
  float4 x[kRows];
#pragma unroll
  for (int i = 0; i < kRows; i++) x[i] = __ldcs(state + i * (kDim / 4));

  Window window[3];
#pragma unroll
  for (int i = 0; i < 3; i++) window[i] = load_window(a, sequence, slot, i, channel);
  const float q = convolve(a, 0, channel, window[0]), k = convolve(a, 1, channel, window[1]);
  s.v[tid] = convolve(a, 2, channel, window[2]);
  const float z = __bfloat162float(static_cast<const __nv_bfloat16*>(a.z)[row + channel]);
  s.decay[tid] =
      exp2_fast(log2_decay<kGate>(z, a.gate.dt_bias[channel] * kLog2e, __expf(a.gate.a_log[head]), a.gate.lower_bound));
  s.q[tid] = q;
  s.k[tid] = k;
  const float qq = warp_sum(q * q), kk = warp_sum(k * k), qk = warp_sum(q * k);
  if (lane == 0) {
    s.sums[warp][0] = qq;
    s.sums[warp][1] = kk;
    s.sums[warp][2] = qk;
  }
  __syncthreads();
  const auto total = [&](int i) { return (s.sums[0][i] + s.sums[1][i]) + (s.sums[2][i] + s.sums[3][i]); };
  const float q_norm = rsqrtf(total(0) + kL2Eps) * a.scale, k_norm = rsqrtf(total(1) + kL2Eps);
  const float kq = total(2) * q_norm * k_norm;

  float4 read = {0, 0, 0, 0}, answer = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kRows; i++) {
    x[i] = x[i] * s.decay[row0 + i];
    read = read + x[i] * s.k[row0 + i];
    answer = answer + x[i] * s.q[row0 + i];
  }
  const auto across_warp = [](float4 p) {
#pragma unroll
    for (int bit = kQuads; bit < 32; bit *= 2) {
      p.x += __shfl_xor_sync(~0u, p.x, bit);
      p.y += __shfl_xor_sync(~0u, p.y, bit);
      p.z += __shfl_xor_sync(~0u, p.z, bit);
      p.w += __shfl_xor_sync(~0u, p.w, bit);
    }
    return p;
  };
  read = across_warp(read);
  answer = across_warp(answer);
  if (lane < kQuads) {
    s.read[warp][quad] = read;
    s.answer[warp][quad] = answer;
  }
  __syncthreads();

  const float4 e = ((s.read[0][quad] + s.read[1][quad]) + (s.read[2][quad] + s.read[3][quad])) * k_norm;
  const float4 o_state = ((s.answer[0][quad] + s.answer[1][quad]) + (s.answer[2][quad] + s.answer[3][quad])) * q_norm;
  const float beta = sigmoid(
      __bfloat162float(static_cast<const __nv_bfloat16*>(a.beta)[static_cast<int64_t>(sequence) * a.n_heads + head]));
  const int column = 4 * (part * kQuads + quad);
  const float4 u = (*reinterpret_cast<const float4*>(&s.v[column]) + e * -1.f) * beta;
  const float4 uk = u * k_norm;
#pragma unroll
  for (int i = 0; i < kRows; i++) __stcs(state + i * (kDim / 4), x[i] + uk * s.k[row0 + i]);

  const float4 o = o_state + u * kq;
  float square = o.x * o.x + o.y * o.y + o.z * o.z + o.w * o.w;
#pragma unroll
  for (int bit = kQuads / 2; bit; bit /= 2) square += __shfl_xor_sync(~0u, square, bit);
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
  if (tid < kSplit) {
    asm volatile(
        "{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\nst.shared::cluster.f32 [remote], %2;\n}\n" ::
            "r"(smem_address(&s.square[part])),
        "r"(tid), "f"(square)
        : "memory");
  }
  cluster_sync();
  square = s.square[0] + s.square[1];
  if (part == 0) {
#pragma unroll
    for (int i = 0; i < 3; i++) store_window(a, slot, i, channel, window[i]);
  }
  if (tid >= kQuads) return;
  const float r = rsqrtf(square * (1.f / kDim) + a.norm_eps);
  const float4 w = *reinterpret_cast<const float4*>(a.norm_weight + column);
  const uint2 gate =
      *reinterpret_cast<const uint2*>(static_cast<const __nv_bfloat16*>(a.out_gate) + row + head * kDim + column);
  const float2 g0 = unpack_bf16(gate.x), g1 = unpack_bf16(gate.y);
  uint2 y;
  y.x = pack_bf16(o.x * r * w.x * sigmoid(g0.x), o.y * r * w.y * sigmoid(g0.y));
  y.y = pack_bf16(o.z * r * w.z * sigmoid(g1.x), o.w * r * w.w * sigmoid(g1.y));
  *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(a.out) + row + head * kDim + column) = y;
}

}  // namespace

}  // namespace linnet::ops::sm90

namespace linnet::ops {

int kda_decode_sm90(const KdaDecodeSm90& a, CUstream_st* stream) noexcept {
  if (a.n_sequences == 0 || a.n_heads == 0) return cudaSuccess;
  const unsigned grid = static_cast<unsigned>(a.n_sequences) * a.n_heads * sm90::kSplit;
  if (a.gate.gate == KdaGate::softplus) sm90::decode_kernel<KdaGate::softplus><<<grid, sm90::kThreads, 0, stream>>>(a);
  else sm90::decode_kernel<KdaGate::lower_bound><<<grid, sm90::kThreads, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace linnet::ops
