// kda_sm90 prep: shared memory of one workgroup, and what its parts agree on.
#pragma once

#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90::prep {

constexpr int kThreads = 128;    // a workgroup
constexpr int kRowStride = 272;  // bytes: 128 16-bit channels and 16, so that 8 rows of one 16-byte piece hit all banks
constexpr int kWarpRows = 48;    // rows of shared memory that a warp owns
constexpr int kMatrixStride = 144;  // bytes: 64 f16 and 16, likewise
constexpr int kAttendStride = 48;   // bytes: 16 f16 and 16
constexpr int kLowerStride = 12;    // f32

// Up to kChunk tokens of one head.
struct Chunk {
  int sequence, head;
  int64_t token;  // first
  int n_valid;
};

struct Smem {
  // Per warp: raw z, q and k of its 16 tokens; then operands of two levels of the tree, 24 rows each; then the outer levels' operands.
  char rows[4][kWarpRows * kRowStride];
  char solve[kChunk * kMatrixStride];   // f16: K K^T with decay, replaced block by block by (I + L)^-1 diag(beta)
  char attend[4][16 * kAttendStride];   // f16: diagonal blocks of Q K^T with decay
  float lower[4][2][8 * kLowerStride];  // K K^T with decay in blocks of 8 tokens, [column][row], below the diagonal
  float total[4][kDim];                 // decay over a warp's 16 tokens
  float total_log2[4][kDim];
  float2 norm[4][16];  // of q and k, inverse
  float beta[kChunk];
};

__device__ __forceinline__ uint32_t row_offset(int row) { return row * kRowStride; }

// All threads of the workgroup that owns this hardware barrier.
__device__ __forceinline__ void workgroup_sync(int barrier) { sync_threads(barrier, kThreads); }

// The same number, of which the compiler knows nothing: what is derived from it is not kept in registers from elsewhere.
__device__ __forceinline__ int forget(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

__device__ __forceinline__ void store_half(void* to, float x) { *static_cast<__half*>(to) = __float2half_rn(x); }

// A lane's channels 4l..4l+3 as f16. The two pairs go to different halves of a row of operands, as they go to different panels of the
// record: as neighbours they would be stored by one instruction, for which the compiler copies them.
struct alignas(8) Half4 {
  uint32_t lo, hi;
};
__device__ __forceinline__ Half4 pack_half4(float a, float b, float c, float d) {
  return {pack_half(a, b), pack_half(c, d)};
}
__device__ __forceinline__ Half4 operator*(const Half4& a, const Half4& b) {
  return {mul_half2(a.lo, b.lo), mul_half2(a.hi, b.hi)};
}
__device__ __forceinline__ uint32_t operand_address(const Smem& s, int warp, int lane) {
  return smem_address(s.rows[warp]) + lane * 4;
}
__device__ __forceinline__ void store_operand(uint32_t address, const Half4& x) {
  store_shared(address, x.lo);
  store_shared(address + 128, x.hi);
}

}  // namespace linnet::ops::sm90::prep
