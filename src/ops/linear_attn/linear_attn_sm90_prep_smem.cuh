// kda_sm90 prep: shared memory of one workgroup, and what its parts agree on.
#pragma once

#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90::prep {

constexpr int kWarps = 8, kThreads = kWarps * 32;  // a workgroup
constexpr int kBlock = 8;                          // tokens of a warp
constexpr int kTensorBytes = 2 * kPanelBytes;      // a chunk's rows of one tensor
constexpr int kTileBytes = kBlock * 128;           // a warp's part of a panel
constexpr int kMatrixStride = 144;  // bytes: 64 f16 and 16, so that 8 rows of one 16-byte piece hit all banks
constexpr int kEntryStride = 12;    // f32
constexpr int kRanges = 2 * kWarps + (kWarps - 1) * (kWarps - 2) / 2 + 1;  // of neighbouring blocks, and ones

// Up to kChunk tokens of one head.
struct Chunk {
  int sequence, head;
  int64_t token;  // first
  int n_valid;
};

enum Tensor { kRawZ, kRawQ, kRawK };

// Rows lie as in a record: panels of 64 channels, 128 bytes a row, the 16-byte pieces of row r permuted by piece ^ (r & 7), which is also how
// a tensor copy with 128-byte swizzle would put them. A warp owns rows 8w..8w+7 of each panel of each tensor: 24 rows of 256 bytes.
struct alignas(1024) Smem {
  // Raw z, q and k; then rows of decays (make_factors); then the block's K, Q with prefixes and K with suffixes.
  char rows[3 * kTensorBytes];
  // f16: K K^T with decay, replaced block by block by (I + L)^-1 diag(beta). Before, from its start and, 8 KB on, to the end of spare two more
  // rows of decays of each warp, and between them log2_total.
  char solve[kChunk * kMatrixStride];
  char spare[2 * 1024 + kPanelBytes - kChunk * kMatrixStride];
  float lower[kWarps][kBlock * kEntryStride];   // K K^T with decay inside the blocks, [column][row], below the diagonal
  float attend[kWarps][kBlock * kEntryStride];  // Q K^T with decay inside the blocks, [row][column]
  uint32_t between[kRanges][kDim / 2];          // f16: decay over runs of blocks
  float2 norm[kWarps][kBlock];                  // of q and k, inverse
  float diagonal[kWarps][kBlock];               // of Q K^T
  float beta[kChunk];
  uint64_t decays;  // barrier, of all warps: log2_total is whole
};
static_assert(sizeof(Smem) == 76800 && offsetof(Smem, solve) == 3 * kTensorBytes);
// The decay over a block: [kWarps, kDim].
__device__ __forceinline__ float* log2_total(Smem& s, int block) {
  return reinterpret_cast<float*>(s.solve + 2 * 1024) + block * kDim;
}
static_assert(2 * 1024 + kWarps * kDim * sizeof(float) <= kPanelBytes);

__device__ __forceinline__ void init_barriers(Smem& s) {
  barrier_init(smem_address(&s.decays), kWarps * kWarpArrivals);
}

// All threads of the workgroup that owns this hardware barrier.
__device__ __forceinline__ void workgroup_sync(int barrier) { sync_threads(barrier, kThreads); }

// The same number, of which the compiler knows nothing: what is derived from it is not kept in registers from elsewhere.
__device__ __forceinline__ int forget(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Two lanes' views of a row of 128 channels. Channel view: a lane has channels 4l..4l+3 of all of the warp's tokens; decays are made in it.
// Token view: lanes 4g..4g+3 have token token_of(lane), lane t of them pieces t, t + 4, t + 8, t + 12: so lie operands of matrix
// instructions in registers. The permutation of tokens lets eight lanes hit all banks.
__device__ __forceinline__ uint32_t channel_rows(const Smem& s, int warp, int lane) {
  return smem_address(s.rows) + warp * kTileBytes + (lane >> 4) * kPanelBytes + (lane & 15) * 8;
}
__device__ __forceinline__ int token_of(int lane) { return lane >> 3 | (lane & 4); }
__device__ __forceinline__ uint32_t in_token_row(int lane) {  // of the first piece
  const int token = token_of(lane);
  return token * 128 + (((lane & 3) ^ token) << 4);
}
// The address of piece t + 4 j from that of piece t.
__device__ __forceinline__ uint32_t piece_of(uint32_t first, int j) {
  return (first ^ (j & 1) * 64) + (j >> 1) * kPanelBytes;
}

}  // namespace linnet::ops::sm90::prep
