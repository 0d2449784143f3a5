// Hopper building blocks of the KDA kernels: the record that prefill's two kernels share, gates, 16-bit types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "core/kernel_cuda.cuh"
#include "core/ptx_cuda.cuh"
#include "ops/linear_attn/linear_attn_sm90.h"

namespace linnet::ops::sm90 {

using namespace ptx;

constexpr int kDim = kKdaSm90Dim;
constexpr int kChunk = kKdaSm90Chunk;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kL2Eps = 1e-6f;

// One chunk of one head as the scan reads it: f16 matrices of 64 rows (tokens) in panels of 64 columns, 128 bytes a row,
// the 16-byte pieces of row r permuted by piece ^ (r & 7): the 128-byte swizzle of the matrix instructions, so that a bulk
// copy delivers ready operands. Panel p holds key channels 64p to 64p + 63. With G the log decay summed inside the chunk, to the row's own
// token:
constexpr int kPanelBytes = kChunk * 128;
struct Record {
  char k_in[2 * kPanelBytes];   // K e^G            reads the entering state
  char q_in[2 * kPanelBytes];   // Q e^G
  char solve[kPanelBytes];      // (I + L)^-1 diag(beta), L the strict lower triangle of beta K K^T with decay
  char k_out[2 * kPanelBytes];  // K e^(G_end - G)  writes the leaving state
  char attend[kPanelBytes];     // Q K^T with decay, lower triangle with diagonal
  float decay[kDim];            // e^G_end, columns as in the panels
};
static_assert(sizeof(Record) == 66048 && sizeof(Record) % 256 == 0);

// Key channel of column n of the panels.
__host__ __device__ constexpr int key_channel(int n) { return n; }

// Sequence s owns the record slots from seq_start[s] / 64 + s on: disjoint for any lengths, found without a prefix sum.
__host__ __device__ inline int64_t first_slot(int64_t start, int64_t sequence) { return start / kChunk + sequence; }

// What a build of prefill's kernels is made for. Plain: no options, see KdaPrefillSm90. kGate: head_softplus stands for both gates of a head.
template <KdaGate kGate_, class T_, bool kPlain_>
struct Build {
  static constexpr KdaGate kGate = kGate_;
  static constexpr bool kPlain = kPlain_, kRawRows = kGate_ <= KdaGate::lower_bound;  // z: rows of raw gates
  using T = T_;  // of q, k, v, z, beta logits and out
};

struct SeqStart {
  const void* data;
  bool is_64;
  __device__ int64_t operator[](int i) const {
    return is_64 ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

// log2(1 + 2^x) = max(x, 0) + y P(y), y = 2^-|x|: relative error 9.3e-6 for any x (P interpolates log2(1 + y) / y at
// Chebyshev points), so that slow channels, where 1 + y would lose y, keep their rates.
__device__ __forceinline__ float softplus_log2(float x) {
  const float y = exp2_fast(-fabsf(x));
  float p = fmaf(y, -0.033822045969f, 0.144471095699f);
  p = fmaf(y, p, -0.301638009735f);
  p = fmaf(y, p, 0.468658879144f);
  p = fmaf(y, p, -0.720358772676f);
  p = fmaf(y, p, 1.442681468065f);
  return fmaf(y, p, fmaxf(x, 0.f));
}

// Log2 decay of one channel from its raw gate z. rate = exp(a_log); bias = dt_bias * log2(e). z = -inf: no decay.
template <KdaGate kGate>
__device__ __forceinline__ float log2_decay(float z, float bias, float rate, float lower_bound) {
  const float x = fmaf(z, kLog2e, bias);
  if constexpr (kGate == KdaGate::softplus) {
    return -rate * softplus_log2(x);
  } else {
    return lower_bound * kLog2e * reciprocal_fast(1.f + exp2_fast(-rate * x));
  }
}

__device__ __forceinline__ float2 unpack_bf16(uint32_t x) {
  return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
}
__device__ __forceinline__ float2 unpack_half(uint32_t x) {
  __half2 h;
  memcpy(static_cast<void*>(&h), &x, 4);
  return __half22float2(h);
}
template <class T>
__device__ __forceinline__ float2 unpack(uint32_t x) {
  if constexpr (std::is_same_v<T, __half>) return unpack_half(x);
  else return unpack_bf16(x);
}
template <class T>
__device__ __forceinline__ uint32_t pack(float lo, float hi) {
  if constexpr (std::is_same_v<T, __half>) return pack_half(lo, hi);
  else return pack_bf16(lo, hi);
}
}  // namespace linnet::ops::sm90
