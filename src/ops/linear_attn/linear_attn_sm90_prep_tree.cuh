// kda_sm90 prep: the tree over a block, the 8 tokens of a warp: decayed Gram matrices of its levels, operands of the block, rows of the record.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_decay.cuh"

namespace linnet::ops::sm90::prep {

// The level that joins nodes of m tokens multiplies the later node's K and Q with their prefixes by the earlier one's K with its suffix. A
// token is in one of both and has one factor a level, so that [K; Q] x K of all 8 tokens holds the level's entries among others.
struct Levels {
  float d[3]
         [4];  // of levels 1, 2 and 4: rows of K and of Q, each of tokens token_of(lane), columns of tokens t and 4 + t
};
__device__ __forceinline__ void multiply_levels(Levels& x, const Rows& rows, const uint32_t (&factors)[3]) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    uint32_t f[3][4];
#pragma unroll
    for (int level = 0; level < 3; level++) load_shared(f[level], piece_of(factors[level], j));
#pragma unroll
    for (int w = 0; w < 4; w++) {
#pragma unroll
      for (int level = 0; level < 3; level++) {
        const uint32_t k = mul_half2(rows.k[j][w], f[level][w]), q = mul_half2(rows.q[j][w], f[level][w]);
        mma_k8<__half>(x.d[level], k, q, k);
      }
    }
  }
}
// Entries below the diagonal: rows of K to s.lower, of Q to s.attend, which also takes its diagonal.
__device__ __forceinline__ void scatter_levels(Smem& s, const Levels& x, int warp, int lane) {
  const int i = token_of(lane), t = lane & 3;
  float* const lower = s.lower[warp] + t * kEntryStride + i;
  float* const attend = s.attend[warp] + i * kEntryStride + t;
  const bool pair = (i ^ t) & 2, quad = i & 4;
  if (lane < kBlock) s.attend[warp][lane * (kEntryStride + 1)] = s.diagonal[warp][lane];
  if (t < i) {
    *lower = quad ? x.d[2][0] : pair ? x.d[1][0] : x.d[0][0];
    *attend = quad ? x.d[2][2] : pair ? x.d[1][2] : x.d[0][2];
  }
  if (4 + t < i) {
    lower[4 * kEntryStride] = pair ? x.d[1][1] : x.d[0][1];
    attend[4] = pair ? x.d[1][3] : x.d[0][3];
  }
}

__device__ __forceinline__ void multiply(uint32_t (&y)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
#pragma unroll
  for (int w = 0; w < 4; w++) y[w] = mul_half2(a[w], b[w]);
}

// The block's operands, K and Q with their prefixes, K with its suffix, take the places of z, q and k; times the decays over the chunk's other
// blocks (rows of f16, before and after) they are the record's rows.
__device__ __forceinline__ void finish_rows(const Rows& x, uint32_t before, uint32_t after, Record* record,
                                            const Smem& s, int warp, int lane) {
  const uint32_t mine = warp * kTileBytes + in_token_row(lane), rows = smem_address(s.rows) + mine;
  const int token = token_of(lane);
  const uint32_t factors = smem_address(s.rows) + warp * kTileBytes + token * 128 + (lane & 3) * 16 + (token & 4) * 16;
  char* const first = reinterpret_cast<char*>(record) + mine;  // k_in, then q_in and k_out
  char* const second = reinterpret_cast<char*>(record) + (mine ^ 64);
  const auto record_row = [&](int j) { return (j & 1 ? second : first) + (j >> 1) * kPanelBytes; };
  uint32_t prefix[4][4], suffix[4][4];
#pragma unroll
  for (int j = 0; j < 4; j++) load_shared(prefix[j], piece_of(factors, j) + kPrefixes);
  __syncwarp();  // the lanes of a token have read its row
#pragma unroll
  for (int j = 0; j < 4; j++) {
    uint32_t f[4], y[4], z[4];
    load_shared(f, before + j * 64);
    multiply(y, x.k[j], prefix[j]);
    multiply(z, y, f);
    store_global(record_row(j), z);
    store_shared(piece_of(rows, j) + kRawZ * kTensorBytes, y);
    multiply(y, x.q[j], prefix[j]);
    multiply(z, y, f);
    store_global(record_row(j) + offsetof(Record, q_in), z);
    store_shared(piece_of(rows, j) + kRawQ * kTensorBytes, y);
  }
#pragma unroll
  for (int j = 0; j < 4; j++) load_shared(suffix[j], piece_of(factors, j) + kSuffixes);
  __syncwarp();
#pragma unroll
  for (int j = 0; j < 4; j++) {
    uint32_t f[4], y[4], z[4];
    load_shared(f, after + j * 64);
    multiply(y, x.k[j], suffix[j]);
    multiply(z, y, f);
    store_global(record_row(j) + offsetof(Record, k_out), z);
    store_shared(piece_of(rows, j) + kRawK * kTensorBytes, y);
  }
}

}  // namespace linnet::ops::sm90::prep
