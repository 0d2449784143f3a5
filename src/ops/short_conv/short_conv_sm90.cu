// short_conv_sm90: depthwise convolution of four taps over packed sequences, and SiLU. Memory-bound.
//
// Grid    a CTA of 128 threads per 1,024 channels and run of tokens; a thread owns 8 neighbouring channels and walks the run.
// Tile    the last three inputs in registers in f32, a ring over four tokens; the next 4 tokens' loads, 16 B each, are under way meanwhile.
// Runs    64 tokens, fewer while that leaves SMs idle. A run starts with the three inputs before it, from x or from the state, and
//         changes to the next sequence's state where one begins. States are written by state_kernel afterwards: another run may
//         still read them before.
// Numeric f32, one product and three multiply-adds in the order of the taps, silu with fast exponential and division.
// Traffic 4 B an element, plus 3 tokens in 64 read twice (from the L2, mostly).
// conv_kernel: registers 126, spills 0.
// state_kernel: registers 24, spills 0.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "core/kernel_cuda.cuh"
#include "core/piece_cuda.cuh"
#include "ops/short_conv/short_conv_sm90.h"

namespace linnet::ops::sm90 {
namespace {

constexpr int kTaps = kShortConvSm90Taps, kWindow = kTaps - 1;
constexpr int kThreads = 128;
constexpr int kGroup = kTaps;  // tokens loaded together: the ring of inputs repeats with them

__device__ __forceinline__ int64_t start_of(const ShortConvSm90& a, int i) {
  return a.seq_start_is_64 ? static_cast<const int64_t*>(a.seq_start)[i] : static_cast<const int32_t*>(a.seq_start)[i];
}
__device__ __forceinline__ uint4 load_x(const ShortConvSm90& a, int64_t token, int channel) {
  return __ldg(reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.x) + token * a.x_stride + channel));
}
// Input i of the three before a sequence (2 is the newest), 8 channels of it.
__device__ __forceinline__ Piece load_state(const ShortConvSm90& a, int sequence, int channel, int i) {
  Piece r = {};
  const int slot = a.state_in ? a.state_in[sequence] : -1;
  if (slot < 0) return r;
  const __nv_bfloat16* const from =
      static_cast<const __nv_bfloat16*>(a.state) + (static_cast<int64_t>(slot) * a.n_channels + channel) * kWindow + i;
#pragma unroll
  for (int c = 0; c < kPiece; c++) r.x[c] = __bfloat162float(from[c * kWindow]);
  return r;
}
// The input `back` tokens before `token` of a sequence that begins at `begin`.
__device__ __forceinline__ Piece load_before(const ShortConvSm90& a, int sequence, int64_t begin, int64_t token,
                                             int back, int channel) {
  if (token - back >= begin) return unpack(load_x(a, token - back, channel));
  return load_state(a, sequence, channel, static_cast<int>(kWindow + token - back - begin));
}

// The last sequence that begins at or before the token: the one that has it.
__device__ __forceinline__ int sequence_of(const ShortConvSm90& a, int64_t token) {
  int lo = 0, hi = a.n_sequences - 1;
  while (lo < hi) {
    const int mid = (lo + hi + 1) / 2;
    if (start_of(a, mid) <= token) lo = mid;
    else hi = mid - 1;
  }
  return lo;
}

struct Weights {
  float w[kTaps][kPiece];
};
__device__ __forceinline__ Weights load_weights(const ShortConvSm90& a, int channel) {
  Weights r;
#pragma unroll
  for (int c = 0; c < kPiece; c++) {
    const float4 w = __ldg(reinterpret_cast<const float4*>(a.weight) + channel + c);
    r.w[0][c] = w.x;
    r.w[1][c] = w.y;
    r.w[2][c] = w.z;
    r.w[3][c] = w.w;
  }
  return r;
}

// Taps 0..3 over the ring, of which the newest input is in place `newest`.
template <bool kSilu>
__device__ __forceinline__ uint4 convolve(const Weights& w, const Piece (&ring)[kTaps], int newest) {
  Piece y;
#pragma unroll
  for (int c = 0; c < kPiece; c++) {
    float s = w.w[0][c] * ring[(newest + 1) % kTaps].x[c];
#pragma unroll
    for (int j = 1; j < kTaps; j++) s = fmaf(w.w[j][c], ring[(newest + 1 + j) % kTaps].x[c], s);
    y.x[c] = kSilu ? __fdividef(s, 1.f + __expf(-s)) : s;
  }
  return pack(y);
}

__device__ __forceinline__ void load_group(const ShortConvSm90& a, int64_t base, int64_t last, int channel,
                                           uint4 (&raw)[kGroup]) {
#pragma unroll
  for (int i = 0; i < kGroup; i++) raw[i] = base + i < last ? load_x(a, base + i, channel) : make_uint4(0, 0, 0, 0);
}

template <bool kSilu>
__global__ void __launch_bounds__(kThreads, 4) conv_kernel(const __grid_constant__ ShortConvSm90 a, int run) {
  const int channel = (blockIdx.x * kThreads + threadIdx.x) * kPiece;
  if (channel >= a.n_channels) return;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * run, last = min(first + run, a.n_tokens);
  int sequence = sequence_of(a, first);
  int64_t begin = start_of(a, sequence), end = start_of(a, sequence + 1);
  const Weights w = load_weights(a, channel);
  Piece ring[kTaps];
#pragma unroll
  for (int back = 1; back <= kWindow; back++)
    ring[kTaps - back] = load_before(a, sequence, begin, first, back, channel);
  uint4 next[kGroup];
  load_group(a, first, last, channel, next);
  for (int64_t base = first; base < last; base += kGroup) {
    uint4 raw[kGroup];
#pragma unroll
    for (int i = 0; i < kGroup; i++) raw[i] = next[i];
    load_group(a, base + kGroup, last, channel, next);
#pragma unroll
    for (int i = 0; i < kGroup; i++) {
      const int64_t token = base + i;
      if (token >= last) break;
      if (token == end) {
        do {
          sequence++;
          begin = end;
          end = start_of(a, sequence + 1);
        } while (token == end);
#pragma unroll
        for (int back = 1; back <= kWindow; back++)
          ring[(i + kTaps - back) % kTaps] = load_state(a, sequence, channel, kWindow - back);
      }
      ring[i % kTaps] = unpack(raw[i]);
      *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(a.y) + token * a.y_stride + channel) =
          convolve<kSilu>(w, ring, i % kTaps);
    }
  }
}

// The three inputs up to each sequence's end, to its slot. A sequence shorter than that keeps part of the state before.
__global__ void __launch_bounds__(kThreads) state_kernel(const __grid_constant__ ShortConvSm90 a) {
  const int channel = blockIdx.y * kThreads + threadIdx.x, sequence = blockIdx.x;
  const int slot = a.state_out[sequence];
  if (channel >= a.n_channels || slot < 0) return;
  const int64_t begin = start_of(a, sequence), end = start_of(a, sequence + 1);
  const int before = a.state_in ? a.state_in[sequence] : -1;
  __nv_bfloat16* const pool = static_cast<__nv_bfloat16*>(a.state);
  __nv_bfloat16 window[kWindow];
#pragma unroll
  for (int i = 0; i < kWindow; i++) {
    const int64_t token = end - kWindow + i;
    if (token >= begin) window[i] = static_cast<const __nv_bfloat16*>(a.x)[token * a.x_stride + channel];
    else if (before < 0) window[i] = __float2bfloat16_rn(0.f);
    else window[i] = pool[(static_cast<int64_t>(before) * a.n_channels + channel) * kWindow + kWindow + token - begin];
  }
#pragma unroll
  for (int i = 0; i < kWindow; i++)
    pool[(static_cast<int64_t>(slot) * a.n_channels + channel) * kWindow + i] = window[i];
}

constexpr int64_t kRun = 64, kShortestRun = 4, kWantedCtas = 2 * 132;

cudaError_t launch(const ShortConvSm90& a, cudaStream_t stream) {
  if (a.n_tokens > 0) {
    const int64_t columns = (a.n_channels + kThreads * kPiece - 1) / (kThreads * kPiece);
    int64_t run = kRun;
    while (run > kShortestRun && columns * ((a.n_tokens + run - 1) / run) < kWantedCtas) run /= 2;
    while ((a.n_tokens + run - 1) / run > 65535) run *= 2;
    const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>((a.n_tokens + run - 1) / run));
    if (const cudaError_t e = launch_grid(a.silu ? conv_kernel<true> : conv_kernel<false>, grid, kThreads, 0, stream, a,
                                          static_cast<int>(run)))
      return e;
  }
  if (!a.state_out || !a.state) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(a.n_sequences),
                  static_cast<unsigned>((a.n_channels + kThreads - 1) / kThreads));
  return launch_grid(state_kernel, grid, kThreads, 0, stream, a);
}

}  // namespace
}  // namespace linnet::ops::sm90

namespace linnet::ops {

int short_conv_sm90(const ShortConvSm90& a, CUstream_st* stream) noexcept {
  if (a.n_sequences == 0 || a.n_channels == 0) return cudaSuccess;
  const bool wide = a.x_stride % kPiece == 0 && a.y_stride % kPiece == 0;
  if (a.n_channels < 0 || a.n_channels % kPiece || a.n_channels / sm90::kThreads >= 65535 || !wide)
    return cudaErrorInvalidValue;
  return sm90::launch(a, stream);
}

}  // namespace linnet::ops
