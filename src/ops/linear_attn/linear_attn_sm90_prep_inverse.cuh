// kda_sm90 prep: T = (I + L)^-1 diag(beta) with L = diag(beta) A, A the strict lower triangle of K K^T with decay; T and Q K^T to the record.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_blocks.cuh"

namespace linnet::ops::sm90::prep {

// A warp's accumulator tiles of 16 rows x 8 n columns to a matrix of the record; row is a multiple of 8.
template <int n>
__device__ __forceinline__ void write_tiles(char* matrix, int row, int col, const float (&d)[n][4], int lane) {
  const int g = lane >> 2;
  char* const rows = matrix + (row + g) * 128 + (lane & 3) * 4;
#pragma unroll
  for (int i = 0; i < n; i++) {
    char* const to = rows + (((col >> 3) + i) ^ g) * 16;
    *reinterpret_cast<uint32_t*>(to) = pack_half(d[i][0], d[i][1]);
    *reinterpret_cast<uint32_t*>(to + 8 * 128) = pack_half(d[i][2], d[i][3]);
  }
}

// Address inside the f16 matrix for ldmatrix: left operand; right operand (transposed on load).
__device__ __forceinline__ uint32_t left(uint32_t m, int row, int col, int lane) {
  return m + (row + (lane & 15)) * kMatrixStride + (col + (lane >> 4) * 8) * 2;
}
__device__ __forceinline__ void mma_f16_k8(float (&d)[4], uint32_t a, uint32_t b) {  // rows 8 to 15 unused
  mma_k8<__half>(d, a, 0, b);
}

// The diagonal block of 16 of T that joins a pair of blocks: each inverted, a column a lane, then joined, by the warp that has multiplied them.
// It and the block of Q K^T go to the record.
__device__ __forceinline__ void invert_pair(Record* record, Smem& s, int pair, int lane) {
  const int block = lane >> 3 & 1, column = lane & 7;
  const float* const lower = s.lower[2 * pair + block];
  const float4 beta_low = *reinterpret_cast<const float4*>(&s.beta[16 * pair + 8 * block]),
               beta_high = *reinterpret_cast<const float4*>(&s.beta[16 * pair + 8 * block + 4]);
  const float beta[8] = {beta_low.x,  beta_low.y,  beta_low.z,  beta_low.w,
                         beta_high.x, beta_high.y, beta_high.z, beta_high.w};
  float x[8];  // x_i = beta_i ((i == column) - sum A_ij x_j)
#pragma unroll
  for (int i = 0; i < 8; i++) x[i] = i == column && lane < 16 ? 1.f : 0.f;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    x[j] *= beta[j];
#pragma unroll
    for (int i4 = (j + 1) / 4; i4 < 2; i4++) {
      const float4 l = *reinterpret_cast<const float4*>(lower + j * kEntryStride + 4 * i4);
      const float lv[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
      for (int r = 0; r < 4; r++)
        if (4 * i4 + r > j) x[4 * i4 + r] -= lv[r] * x[j];
    }
  }
  // Lanes 0-15 the blocks (0, 0) and (1, 1), lanes 24-31 the zeros of (0, 1).
  const uint32_t solve = smem_address(s.solve) + 16 * pair * (kMatrixStride + 2);
  if (lane < 16 || lane >= 24) {
    const uint32_t to = solve + (lane < 16 ? block * 8 * kMatrixStride : 0) + (lane & 15) * 2;
#pragma unroll
    for (int i = 0; i < 8; i++) store_shared_half(to + i * kMatrixStride, __float2half_rn(x[i]));
  }
  __syncwarp();
  // T21 = -(T22 A21) T11.
  uint32_t right[2];
  const uint32_t t22 = ldmatrix_one(solve + (8 + (lane & 7)) * kMatrixStride + 16);
  ldmatrix_two_transposed(right, solve + ((lane & 15) ^ 8) * kMatrixStride);  // A21, T11
  float y[4] = {}, z[4] = {};
  mma_f16_k8(y, t22, right[0]);
  mma_f16_k8(z, pack_half(-y[0], -y[1]), right[1]);
  __syncwarp();
  store_shared(solve + (8 + (lane >> 2)) * kMatrixStride + (lane & 3) * 4, pack_half(z[0], z[1]));
  __syncwarp();
  const int row = lane >> 1, piece = lane & 1;
  const int offset = (16 * pair + row) * 128 + (((2 * pair + piece) ^ (row & 7)) << 4);
  *reinterpret_cast<uint4*>(record->solve + offset) =
      *reinterpret_cast<const uint4*>(s.solve + (16 * pair + row) * kMatrixStride + 32 * pair + piece * 16);
  if (row < 8 || piece) {  // the other product is in the record
    const float4* const from =
        reinterpret_cast<const float4*>(s.attend[2 * pair + (row >> 3)] + (row & 7) * kEntryStride);
    const float4 low = from[0], high = from[1];
    const float x[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    const int n = row >> 3 == piece ? (row & 7) + 1 : 0;  // entries up to the diagonal
    uint32_t h[4];
#pragma unroll
    for (int i = 0; i < 4; i++) h[i] = pack_half(2 * i < n ? x[2 * i] : 0.f, 2 * i + 1 < n ? x[2 * i + 1] : 0.f);
    *reinterpret_cast<uint4*>(record->attend + offset) = make_uint4(h[0], h[1], h[2], h[3]);
  }
}

// The rows of T left of the diagonal block of 16 rows `block`, from right to left: T_ij = -(sum over j < l <= i of T_il A_lj) T_jj. They need
// nothing of T but the diagonal blocks.
__device__ __forceinline__ void join_row(Record* record, const Smem& s, int block, int lane) {
  const uint32_t m = smem_address(s.solve);
  uint32_t t[3][4];  // T_il of l = i, i - 1, i - 2
  ldmatrix(t[0], left(m, 16 * block, 16 * block, lane));
#pragma unroll
  for (int step = 1; step < 4; step++) {
    if (step > block) return;
    const int column = 16 * (block - step);
    float y[2][4] = {}, z[2][4] = {};
    uint32_t b[4];
#pragma unroll
    for (int l = 0; l < step; l++) {
      ldmatrix_transposed(b, left(m, 16 * (block - l), column, lane));
      mma_f16(y[0], t[l], b[0], b[1]);
      mma_f16(y[1], t[l], b[2], b[3]);
    }
    const uint32_t sum[4] = {pack_half(-y[0][0], -y[0][1]), pack_half(-y[0][2], -y[0][3]),
                             pack_half(-y[1][0], -y[1][1]), pack_half(-y[1][2], -y[1][3])};
    ldmatrix_transposed(b, left(m, column, column, lane));
    mma_f16(z[0], sum, b[0], b[1]);
    mma_f16(z[1], sum, b[2], b[3]);
    write_tiles(record->solve, 16 * block, column, z, lane);
    if (step == 3) return;
    t[step][0] = pack_half(z[0][0], z[0][1]), t[step][1] = pack_half(z[0][2], z[0][3]);
    t[step][2] = pack_half(z[1][0], z[1][1]), t[step][3] = pack_half(z[1][2], z[1][3]);
  }
}

// Zeros above the diagonal blocks of 16 of a matrix of the record, by one warp.
__device__ __forceinline__ void clear_upper(char* matrix, int lane) {
  const int row = lane >> 1;
#pragma unroll
  for (int i = 0; i < 3; i++) {
#pragma unroll
    for (int j = i + 1; j < 4; j++)
      *reinterpret_cast<uint4*>(matrix + (16 * i + row) * 128 + (((2 * j + (lane & 1)) ^ (row & 7)) << 4)) =
          make_uint4(0, 0, 0, 0);
  }
}

}  // namespace linnet::ops::sm90::prep
