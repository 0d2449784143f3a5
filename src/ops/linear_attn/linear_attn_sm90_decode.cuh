// What decode and verify do alike for one token of one head, by thread = channel. Shared so that both give the same bits: where a product is
// added to something, fmaf or an intrinsic says whether it is rounded first; nothing is left to the compiler.
#pragma once

#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90 {

constexpr int kDecodeThreads = 128, kDecodeWarps = kDecodeThreads / 32;
constexpr int kDecodeRows =
    kDim / kDecodeWarps;  // key channels of the state that a warp owns; a lane owns 4 value columns of them
constexpr int kQuads = kDim / 4;
constexpr int kWindow = kKdaSm90ConvTaps - 1;
constexpr uint32_t kDecodeRowBytes = kDecodeRows * kDim * sizeof(float);

constexpr unsigned kSms = 132;
constexpr int kHalfSmBytes = 100 * 1024;  // shared memory of a CTA that admits one more on the SM, but no third

// The warp's rows of the state of one head; head counts over sequences and heads. Null for padding.
template <class T>
__device__ __forceinline__ T* rows_of(T* state, const int32_t* slot, int n_heads, unsigned head, int warp) {
  const int at = slot[head / n_heads];
  return at < 0 ? nullptr
                : state + ((static_cast<int64_t>(at) * n_heads + head % n_heads) * kDim + warp * kDecodeRows) * kDim;
}

// A grid that, if beside, starts while the one before it ends. smem_bytes: dynamic, at most kHalfSmBytes.
template <int kThreads = kDecodeThreads, class... Params, class... Args>
cudaError_t launch_beside(void (*kernel)(Params...), unsigned grid, int smem_bytes, bool beside, cudaStream_t stream,
                          const Args&... args) {
  if (const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kHalfSmBytes))
    return e;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = smem_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = beside;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int bit = 16; bit; bit /= 2) x += __shfl_xor_sync(~0u, x, bit);
  return x;
}
// Sum of four, in pairs.
__device__ __forceinline__ float sum4(const float* x, int stride) {
  return (x[0] + x[stride]) + (x[2 * stride] + x[3 * stride]);
}
__device__ __forceinline__ float warp_sum_squares(float x) { return warp_sum(__fmul_rn(x, x)); }
// sum += x f
__device__ __forceinline__ void add_scaled(float4& sum, float4 x, float f) {
  sum.x = fmaf(x.x, f, sum.x);
  sum.y = fmaf(x.y, f, sum.y);
  sum.z = fmaf(x.z, f, sum.z);
  sum.w = fmaf(x.w, f, sum.w);
}
__device__ __forceinline__ float4 scaled(float4 x, float f) { return make_float4(x.x * f, x.y * f, x.z * f, x.w * f); }

// By an approximate reciprocal (1 ulp): the exact division has a branch, which keeps what several tokens need from being interleaved.
__device__ __forceinline__ float sigmoid_fast(float x) { return reciprocal_fast(1.f + __expf(-x)); }

// The last inputs of one channel of one stream (q, k or v) in the pool [slots, 3, H, 128, 3].
__device__ __forceinline__ int64_t window_at(int n_heads, int slot, int stream, int channel) {
  return ((static_cast<int64_t>(slot) * 3 + stream) * n_heads * kDim + channel) * kWindow;
}

// Convolution of one channel of one stream, and SiLU; past is oldest first. The layer's activations are bf16.
__device__ __forceinline__ float convolve(float4 w, const __nv_bfloat16 (&past)[kWindow], __nv_bfloat16 now) {
  float y = w.x * __bfloat162float(past[0]);
  y = fmaf(w.y, __bfloat162float(past[1]), y);
  y = fmaf(w.z, __bfloat162float(past[2]), y);
  y = fmaf(w.w, __bfloat162float(now), y);
  return __bfloat162float(__float2bfloat16_rn(y * sigmoid_fast(y)));
}
__device__ __forceinline__ float4 conv_weights(const float* conv_weight, int n_heads, int stream, int channel) {
  return *reinterpret_cast<const float4*>(conv_weight + (static_cast<int64_t>(stream) * n_heads * kDim + channel) * 4);
}

// The gate's constants of one channel.
struct Rates {
  float bias, rate, lower_bound;
};
__device__ __forceinline__ Rates load_rates(const KdaGateArgs& gate, int head, int channel) {
  return {gate.dt_bias[channel] * kLog2e, __expf(gate.a_log[head]), gate.lower_bound};
}
template <KdaGate kGate>
__device__ __forceinline__ float decay_of(float z, const Rates& r) {
  return exp2_fast(log2_decay<kGate>(z, r.bias, r.rate, r.lower_bound));
}

// Per warp |q|^2, |k|^2 and q k, as the token's norms need them.
__device__ __forceinline__ void put_sums(float q, float k, float (&sums)[3][kDecodeWarps], int warp, int lane) {
  const float qq = warp_sum(__fmul_rn(q, q)), kk = warp_sum(__fmul_rn(k, k)), qk = warp_sum(__fmul_rn(q, k));
  if (lane == 0) {
    sums[0][warp] = qq;
    sums[1][warp] = kk;
    sums[2][warp] = qk;
  }
}

// What one token's scalars do to its products with the state.
struct __align__(16) Factors {
  float q, k;  // 1 / |q| (times the scale), 1 / |k|
  float qk;    // q k, normalised
  float strength;
};
__device__ __forceinline__ Factors factors_of(const float (&sums)[3][kDecodeWarps], float beta, float scale) {
  const float q = rsqrtf(sum4(sums[0], 1) + kL2Eps) * scale, k = rsqrtf(sum4(sums[1], 1) + kL2Eps);
  return {q, k, sum4(sums[2], 1) * q * k, sigmoid_fast(beta)};
}

// One value column of the token from S'^T k and S'^T q, per warp and before the norms.
struct Column {
  float write;  // u / |k|
  float o;
};
__device__ __forceinline__ Column column_of(const float* read, const float* answer, const Factors& f, float v) {
  const float e = sum4(read, kDim) * f.k, o_state = sum4(answer, kDim) * f.q;
  const float u = __fsub_rn(v, e) * f.strength;
  return {u * f.k, fmaf(u, f.qk, o_state)};
}

// The gated norm of one value column.
__device__ __forceinline__ __nv_bfloat16 normed(float o, const float (&squares)[kDecodeWarps], float eps, float weight,
                                                float gate) {
  const float r = rsqrtf(fmaf(sum4(squares, 1), 1.f / kDim, eps));
  return __float2bfloat16_rn(o * r * weight * gate);
}

}  // namespace linnet::ops::sm90
