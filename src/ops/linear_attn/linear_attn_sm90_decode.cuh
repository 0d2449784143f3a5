// What decode and verify do alike for one token of one head, by thread = channel. Shared so that both give the same bits: where a product is
// added to something, fmaf or an intrinsic says whether it is rounded first; nothing is left to the compiler.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_decode_state.cuh"

namespace linnet::ops::sm90 {

constexpr int kDecodeRows = 32;  // key channels of the state that a warp owns
constexpr int kWindow = kKdaSm90ConvTaps - 1;
constexpr unsigned kSms = 132;
constexpr int kHalfSmBytes = 100 * 1024;  // shared memory of a CTA that admits one more on the SM, but no third

// A gate of a whole head (Gated DeltaNet): z, dt_bias and rate have one number for all its channels.
__host__ __device__ constexpr bool is_of_head(KdaGate gate) { return gate == KdaGate::head_softplus; }

// How a CTA takes a head of kD channels whose states are T in memory: a thread for each channel, a warp for 32 rows of the state, of which a lane
// owns 4 value columns. All that depends on neither is named once for heads of 128.
template <int kD, class T>
struct DecodeShape {
  using State = T;
  static constexpr int kWidth = kD, kThreads = kD, kWarps = kD / 32;
  static constexpr int kLanes = kD / 4, kAtOnce = 32 / kLanes;  // lanes of a row, rows of a warp at once
  static constexpr int kFours = kDecodeRows / kAtOnce;          // of the state that a lane owns
  static constexpr int kParts = kWarps * kAtOnce;               // of a sum over the key channels
  static constexpr uint32_t kRowBytes = kDecodeRows * kD * sizeof(T);
  static constexpr int kStateBytes = kD * kD * sizeof(T);
  // Of CTAs with the state in shared memory: how many an SM holds; how many of them in two waves hold all heads where those are few; and the
  // shared memory that admits no more than that.
  static constexpr int kMost = kD == 128 ? sizeof(T) == 4 ? 3 : 5 : sizeof(T) == 4 ? 10 : 12;
  static constexpr int kFew = kD == 128 ? sizeof(T) == 4 ? 2 : 4 : 8;
  static constexpr int kFewBytes = kHalfSmBytes * 2 / kFew;
  static_assert(kParts == 4);
};

inline int width_of(int head_dim) { return head_dim == 0 ? kDim : head_dim; }

// Whether decode, verify and commit take these arguments and are built for them.
template <class Args>
cudaError_t refusal_of(const Args& a, KdaGate gate) {
  if (a.n_sequences < 0 || a.n_heads < 0 || a.state_type > KdaStateType::bf16 || gate > KdaGate::head_log_decay)
    return cudaErrorInvalidValue;
  const bool has_gate = gate <= KdaGate::lower_bound || is_of_head(gate);
  const bool has_width = width_of(a.head_dim) == 64 || width_of(a.head_dim) == 128;
  return has_gate && has_width && !a.state_v_first ? cudaSuccess : cudaErrorNotSupported;
}
template <class Args>
bool is_plain(const Args& a) {
  return width_of(a.head_dim) == kDim && a.state_type == KdaStateType::f32;
}
template <class Args>
bool is_plain_step(const Args& a) {
  return is_plain(a) && !a.out_gate_silu && !is_of_head(a.gate.gate);
}

// The warp's rows of the state of one head; head counts over sequences and heads. Null for padding.
template <class S, class T>
__device__ __forceinline__ T* rows_of(T* state, const int32_t* slot, int n_heads, unsigned head, int warp) {
  const int at = slot[head / n_heads];
  return at < 0 ? nullptr
                : state + ((static_cast<int64_t>(at) * n_heads + head % n_heads) * S::kWidth + warp * kDecodeRows) *
                              S::kWidth;
}

// A grid that, if beside, starts while the one before it ends. smem_bytes: dynamic, at most kHalfSmBytes.
template <int kThreads, class... Params, class... Args>
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
// Sum of four, in pairs, or of two.
__device__ __forceinline__ float sum4(const float* x, int stride) {
  return (x[0] + x[stride]) + (x[2 * stride] + x[3 * stride]);
}
template <int n>
__device__ __forceinline__ float sum_of(const float (&x)[n]) {
  static_assert(n == 4 || n == 2);
  if constexpr (n == 4) return sum4(x, 1);
  else return x[0] + x[1];
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

// One sigmoid for decode and verify, whose bits are equal. The exact division has a branch, which keeps what verify's tokens need from being
// interleaved; the reciprocal is approximate (1 ulp). With the division decode's machine code is that of the recorded measurements.
constexpr bool kExactSigmoid = false;
__device__ __forceinline__ float sigmoid_of_step(float x) {
  return kExactSigmoid ? sigmoid(x) : reciprocal_fast(1.f + __expf(-x));
}

// What the output of the norm is multiplied by.
__device__ __forceinline__ float output_gate(float x, bool silu) {
  const float s = sigmoid_of_step(x);
  return silu ? x * s : s;
}

// The last inputs of one channel of one stream (q, k or v) in the pool [slots, 3, H, kD, 3].
template <int kD>
__device__ __forceinline__ int64_t window_at(int n_heads, int slot, int stream, int channel) {
  return ((static_cast<int64_t>(slot) * 3 + stream) * n_heads * kD + channel) * kWindow;
}

// Convolution of one channel of one stream, and SiLU; past is oldest first. The layer's activations are bf16.
__device__ __forceinline__ float convolve(float4 w, const __nv_bfloat16 (&past)[kWindow], __nv_bfloat16 now) {
  float y = w.x * __bfloat162float(past[0]);
  y = fmaf(w.y, __bfloat162float(past[1]), y);
  y = fmaf(w.z, __bfloat162float(past[2]), y);
  y = fmaf(w.w, __bfloat162float(now), y);
  return __bfloat162float(__float2bfloat16_rn(y * sigmoid_of_step(y)));
}
template <int kD>
__device__ __forceinline__ float4 conv_weights(const float* conv_weight, int n_heads, int stream, int channel) {
  return *reinterpret_cast<const float4*>(conv_weight + (static_cast<int64_t>(stream) * n_heads * kD + channel) * 4);
}

// The gate's constants of one channel.
struct Rates {
  float bias, rate, lower_bound;
};
template <KdaGate kGate>
__device__ __forceinline__ Rates load_rates(const KdaGateArgs& gate, int head, int channel) {
  return {gate.dt_bias[is_of_head(kGate) ? head : channel] * kLog2e, __expf(gate.a_log[head]), gate.lower_bound};
}
template <KdaGate kGate>
__device__ __forceinline__ float decay_of(float z, const Rates& r) {
  constexpr KdaGate kOfChannel = is_of_head(kGate) ? KdaGate::softplus : kGate;
  return exp2_fast(log2_decay<kOfChannel>(z, r.bias, r.rate, r.lower_bound));
}

// Per warp |q|^2, |k|^2 and q k, as the token's norms need them.
template <int kWarps>
__device__ __forceinline__ void put_sums(float q, float k, float (&sums)[3][kWarps], int warp, int lane) {
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
template <int kWarps>
__device__ __forceinline__ Factors factors_of(const float (&sums)[3][kWarps], float beta, float scale) {
  const float q = rsqrtf(sum_of(sums[0]) + kL2Eps) * scale, k = rsqrtf(sum_of(sums[1]) + kL2Eps);
  return {q, k, sum_of(sums[2]) * q * k, sigmoid_of_step(beta)};
}

// One value column of the token from S'^T k and S'^T q, per warp and before the norms.
struct Column {
  float write;  // u / |k|
  float o;
};
template <int kD>
__device__ __forceinline__ Column column_of(const float* read, const float* answer, const Factors& f, float v) {
  const float e = sum4(read, kD) * f.k, o_state = sum4(answer, kD) * f.q;
  const float u = __fsub_rn(v, e) * f.strength;
  return {u * f.k, fmaf(u, f.qk, o_state)};
}

// The gated norm of one value column.
template <int kD>
__device__ __forceinline__ __nv_bfloat16 normed(float o, const float (&squares)[kD / 32], float eps, float weight,
                                                float gate) {
  const float r = rsqrtf(fmaf(sum_of(squares), 1.f / kD, eps));
  return __float2bfloat16_rn(o * r * weight * gate);
}

}  // namespace linnet::ops::sm90
