// kda_sm90 prep: shared memory of one workgroup and the operand layout that its parts agree on.
#pragma once

#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90::prep {

constexpr int kThreads = 128;  // a workgroup
constexpr int kOperandStride =
    144;  // bytes: 64 f16 and 16 of padding, so that 8 rows of one 16-byte piece hit all banks
constexpr int kMatrixStride = 144;            // bytes: 64 f16 and padding, likewise
constexpr uint32_t kMinusInf2 = 0xff80ff80u;  // two bf16
constexpr uint32_t kOne2 = 0x3c003c00u;       // two f16

struct Smem {
  union {
    struct {
      char warp[4][2]
               [24 * kOperandStride];  // per warp, two levels: 8 K rows, 8 Q rows (later half), 8 K rows (earlier half)
    } inner;
    struct {
      char level16[2][48 * kOperandStride];  // per pair of warps: 16 K rows, 16 Q rows (later), 16 K rows (earlier)
      char level32[96 * kOperandStride];     // 32 K rows, 32 Q rows (later), 32 K rows (earlier)
    } outer;
    struct {
      char solve[64 * kMatrixStride];   // f16: L, replaced block by block by (I + L)^-1
      char attend[64 * kMatrixStride];  // f16
      float diagonal[4][16][20];        // f32, [block][column][row] of the diagonal blocks of L
    } gram;
  };
  char z[kChunk * kDim * 2];  // raw gates
  uint32_t half1[4][32][32];  // per warp: normalised q, then k, of the second half's channels: [token][lane]
  float total[4][64];         // decay over a warp's 16 tokens, channels of the current half
  float total_log2[4][64];
  float beta[kChunk];
};

// All threads of the workgroup that owns this hardware barrier.
__device__ __forceinline__ void workgroup_sync(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(kThreads) : "memory");
}

__device__ __forceinline__ void store_shared(uint32_t address, uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

}  // namespace linnet::ops::sm90::prep
