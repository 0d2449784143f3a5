// norm_sm90: RMS norm of rows, and gated RMS norm of heads of 128. Memory-bound.
//
// rms     a row is read once into registers (up to 12 pieces of 16 B a lane): by one warp up to 3,072 columns, by a CTA of eight warps
//         beyond. Four rows a CTA in the first case.
// gated   16 lanes a head, 8 channels each; a warp does 8 neighbouring heads, all loads first.
// Numeric f32; a lane's squares in order, then over lanes in pairs. y is rounded once.
// Traffic rms 4 B an element, gated 6; weights stay in the caches.
// rms_kernel: registers 80, spills 0.
// gated_kernel: registers 72, spills 0.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "core/kernel_cuda.cuh"
#include "core/piece_cuda.cuh"
#include "ops/norm/norm_sm90.h"

namespace linnet::ops::sm90 {
namespace {

constexpr int kWideWarps = 8, kNarrowRows = 4;

__device__ __forceinline__ Piece load_weight(const float* w) {
  const float4 lo = __ldg(reinterpret_cast<const float4*>(w)), hi = __ldg(reinterpret_cast<const float4*>(w) + 1);
  return {{lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w}};
}
__device__ __forceinline__ float squares(const Piece& p) {
  float s = 0;
#pragma unroll
  for (int i = 0; i < kPiece; i++) s = fmaf(p.x[i], p.x[i], s);
  return s;
}
template <int kLanes>
__device__ __forceinline__ float lanes_sum(float x) {
#pragma unroll
  for (int bit = kLanes / 2; bit; bit /= 2) x += __shfl_xor_sync(~0u, x, bit);
  return x;
}

// kWarps warps share a row of at most 32 * kWarps * kPieces pieces.
template <int kWarps, int kPieces>
__global__ void __launch_bounds__(32 * (kWarps == 1 ? kNarrowRows : kWarps))
    rms_kernel(const __grid_constant__ RmsNormSm90 a) {
  constexpr int kLanes = 32 * kWarps;
  const int warp = threadIdx.x >> 5, lane = kWarps == 1 ? threadIdx.x & 31 : threadIdx.x;
  const int64_t row = kWarps == 1 ? static_cast<int64_t>(blockIdx.x) * kNarrowRows + warp : blockIdx.x;
  if (row >= a.n_rows) return;
  const uint4* const x = reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.x) + row * a.x_stride);
  uint4* const y = reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(a.y) + row * a.y_stride);
  const int n_pieces = a.width / kPiece;
  uint4 raw[kPieces];
#pragma unroll
  for (int i = 0; i < kPieces; i++)
    raw[i] = lane + kLanes * i < n_pieces ? x[lane + kLanes * i] : make_uint4(0, 0, 0, 0);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPieces; i++) sum += squares(unpack(raw[i]));
  sum = lanes_sum<32>(sum);
  if constexpr (kWarps > 1) {
    LINNET_SHARED(sums, float[kWarps]);
    if ((threadIdx.x & 31) == 0) sums[warp] = sum;
    __syncthreads();
    sum = 0;
#pragma unroll
    for (int i = 0; i < kWarps; i++) sum += sums[i];
  }
  const float r = rsqrtf(sum / static_cast<float>(a.width) + a.eps);
#pragma unroll
  for (int i = 0; i < kPieces; i++) {
    const int piece = lane + kLanes * i;
    if (piece >= n_pieces) continue;
    const Piece w = load_weight(a.weight + piece * kPiece);
    Piece p = unpack(raw[i]);
#pragma unroll
    for (int c = 0; c < kPiece; c++) p.x[c] = p.x[c] * r * w.x[c];
    y[piece] = pack(p);
  }
}

template <int kWarps, int kPieces>
cudaError_t launch_rms(const RmsNormSm90& a, cudaStream_t stream) {
  const int64_t rows = kWarps == 1 ? kNarrowRows : 1, grid = (a.n_rows + rows - 1) / rows;
  if (grid > 0x7fffffff) return cudaErrorInvalidValue;
  return launch_grid(rms_kernel<kWarps, kPieces>, static_cast<unsigned>(grid),
                     32 * (kWarps == 1 ? kNarrowRows : kWarps), 0, stream, a);
}

constexpr int kHeadLanes = kGatedNormSm90Dim / kPiece, kHeadsAtOnce = 32 / kHeadLanes, kSteps = 4;
constexpr int kGatedThreads = 128, kGatedHeads = kGatedThreads / 32 * kHeadsAtOnce * kSteps;  // of a CTA

template <bool kSilu>
__global__ void __launch_bounds__(kGatedThreads) gated_kernel(const __grid_constant__ GatedNormSm90 a) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, channel = (lane % kHeadLanes) * kPiece;
  const int64_t n_heads = a.n_tokens * a.n_heads;
  const int64_t first =
      static_cast<int64_t>(blockIdx.x) * kGatedHeads + warp * (kHeadsAtOnce * kSteps) + lane / kHeadLanes;
  uint4 x[kSteps], gate[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; i++) {
    const int64_t item = first + kHeadsAtOnce * i, token = item / a.n_heads;
    const int64_t at = (item - token * a.n_heads) * kGatedNormSm90Dim + channel;
    x[i] = gate[i] = make_uint4(0, 0, 0, 0);
    if (item < n_heads) {
      x[i] = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.x) + token * a.x_stride + at);
      gate[i] = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.gate) + token * a.gate_stride + at);
    }
  }
  const Piece w = load_weight(a.weight + channel);
#pragma unroll
  for (int i = 0; i < kSteps; i++) {
    Piece p = unpack(x[i]);
    const Piece g = unpack(gate[i]);
    const float r = rsqrtf(lanes_sum<kHeadLanes>(squares(p)) * (1.f / kGatedNormSm90Dim) + a.eps);
#pragma unroll
    for (int c = 0; c < kPiece; c++)
      p.x[c] = p.x[c] * r * w.x[c] * __fdividef(kSilu ? g.x[c] : 1.f, 1.f + __expf(-g.x[c]));
    const int64_t item = first + kHeadsAtOnce * i, token = item / a.n_heads;
    if (item < n_heads)
      *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(a.y) + token * a.y_stride +
                                (item - token * a.n_heads) * kGatedNormSm90Dim + channel) = pack(p);
  }
}

}  // namespace
}  // namespace linnet::ops::sm90

namespace linnet::ops {

int rms_norm_sm90(const RmsNormSm90& a, CUstream_st* stream) noexcept {
  if (a.n_rows == 0 || a.width == 0) return cudaSuccess;
  if (a.width < 0 || a.width % kPiece || a.width > kNormSm90MaxWidth || a.x_stride % kPiece || a.y_stride % kPiece)
    return cudaErrorInvalidValue;
  if (a.width <= 1024) return sm90::launch_rms<1, 4>(a, stream);
  if (a.width <= 3072) return sm90::launch_rms<1, 12>(a, stream);
  return a.width <= 8192 ? sm90::launch_rms<sm90::kWideWarps, 4>(a, stream)
                         : sm90::launch_rms<sm90::kWideWarps, 12>(a, stream);
}

int gated_norm_sm90(const GatedNormSm90& a, CUstream_st* stream) noexcept {
  if (a.n_tokens == 0 || a.n_heads == 0) return cudaSuccess;
  if (a.x_stride % kPiece || a.gate_stride % kPiece || a.y_stride % kPiece) return cudaErrorInvalidValue;
  const int64_t grid = (a.n_tokens * a.n_heads + sm90::kGatedHeads - 1) / sm90::kGatedHeads;
  if (grid > 0x7fffffff) return cudaErrorInvalidValue;
  return launch_grid(a.silu ? sm90::gated_kernel<true> : sm90::gated_kernel<false>, static_cast<unsigned>(grid),
                     sm90::kGatedThreads, 0, stream, a);
}

}  // namespace linnet::ops
