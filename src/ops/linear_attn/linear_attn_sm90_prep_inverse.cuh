// kda_sm90 prep: T = (I + L)^-1 diag(beta) with L = diag(beta) A, A the strict lower triangle of K K^T with decay; T and Q K^T to the record.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_tree.cuh"

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
template <int n>
__device__ __forceinline__ void store_tiles(uint32_t matrix, int row, int col, const float (&d)[n][4], int lane) {
  const uint32_t at = matrix + (row + (lane >> 2)) * kMatrixStride + (col + (lane & 3) * 2) * 2;
#pragma unroll
  for (int i = 0; i < n; i++) {
    store_shared(at + i * 16, pack_half(d[i][0], d[i][1]));
    store_shared(at + i * 16 + 8 * kMatrixStride, pack_half(d[i][2], d[i][3]));
  }
}

// Where the outer levels' tiles belong: rows of K to s.solve, rows of Q to the record.
__device__ __forceinline__ void scatter(const Grams& grams, Record* record, Smem& s, int warp, int lane) {
  const uint32_t solve = smem_address(s.solve);
  const int pair = warp >> 1, block = 2 + (warp & 1);
  if (warp & 1) write_tiles(record->attend, 32 * pair + 16, 32 * pair, grams.level16, lane);
  else store_tiles(solve, 32 * pair + 16, 32 * pair, grams.level16, lane);
  if (warp & 2) write_tiles(record->attend, 16 * block, 0, grams.level32, lane);
  else store_tiles(solve, 16 * block, 0, grams.level32, lane);
}

// Addresses inside the f16 matrix for ldmatrix: left operand, and right operand (transposed on load).
__device__ __forceinline__ uint32_t left(uint32_t m, int row, int col, int lane) {
  return m + (row + (lane & 15)) * kMatrixStride + (col + (lane >> 4) * 8) * 2;
}
__device__ __forceinline__ void mma_f16_k8(float (&d)[4], uint32_t a, uint32_t b) {  // rows 8 to 15 unused
  mma_k8<__half>(d, a, 0, b);
}

// The diagonal block of 16 of T: two blocks of 8, a column a lane, then joined. It and the block of Q K^T go to the record.
__device__ __forceinline__ void invert_diagonal(Record* record, Smem& s, int warp, int lane) {
  const int block = lane >> 3 & 1, column = lane & 7;
  const float* const lower = s.lower[warp][block];
  const float4 beta_low = *reinterpret_cast<const float4*>(&s.beta[16 * warp + 8 * block]),
               beta_high = *reinterpret_cast<const float4*>(&s.beta[16 * warp + 8 * block + 4]);
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
      const float4 l = *reinterpret_cast<const float4*>(lower + j * kLowerStride + 4 * i4);
      const float lv[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
      for (int r = 0; r < 4; r++)
        if (4 * i4 + r > j) x[4 * i4 + r] -= lv[r] * x[j];
    }
  }
  // Lanes 0-15 the blocks (0, 0) and (1, 1), lanes 24-31 the zeros of (0, 1).
  const uint32_t solve = smem_address(s.solve) + 16 * warp * (kMatrixStride + 2);
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
  const int offset = (16 * warp + row) * 128 + (((2 * warp + piece) ^ (row & 7)) << 4);
  *reinterpret_cast<uint4*>(record->solve + offset) =
      *reinterpret_cast<const uint4*>(s.solve + (16 * warp + row) * kMatrixStride + 32 * warp + piece * 16);
  *reinterpret_cast<uint4*>(record->attend + offset) =
      *reinterpret_cast<const uint4*>(s.attend[warp] + row * kAttendStride + piece * 16);
}

// T21 of pair `warp`, level 16.
__device__ __forceinline__ void join16(Record* record, Smem& s, int warp, int lane) {
  const uint32_t m = smem_address(s.solve);
  const int r0 = 32 * warp + 16, c0 = 32 * warp;
  uint32_t a[4], b[4];
  float y[2][4] = {}, z[2][4] = {};
  ldmatrix(a, left(m, r0, r0, lane));
  ldmatrix_transposed(b, left(m, r0, c0, lane));
  mma_f16(y[0], a, b[0], b[1]);
  mma_f16(y[1], a, b[2], b[3]);
  ldmatrix_transposed(b, left(m, c0, c0, lane));
  const uint32_t ya[4] = {pack_half(-y[0][0], -y[0][1]), pack_half(-y[0][2], -y[0][3]), pack_half(-y[1][0], -y[1][1]),
                          pack_half(-y[1][2], -y[1][3])};
  mma_f16(z[0], ya, b[0], b[1]);
  mma_f16(z[1], ya, b[2], b[3]);
  __syncwarp();
  store_tiles(m, r0, c0, z, lane);
  write_tiles(record->solve, r0, c0, z, lane);
}

// 16 x 16 of T21, level 32: rows 32 + 16 (warp & 1), columns 16 (warp >> 1).
__device__ __forceinline__ void join32(Record* record, const Smem& s, int warp, int lane) {
  const uint32_t m = smem_address(s.solve);
  const int r0 = 32 + 16 * (warp & 1), c0 = 16 * (warp >> 1);
  float y[4][4] = {}, z[2][4] = {};
#pragma unroll
  for (int kk = 0; kk < 2; kk++) {
    if (kk <= (warp & 1)) {
      uint32_t a[4], b[4];
      ldmatrix(a, left(m, r0, 32 + 16 * kk, lane));
#pragma unroll
      for (int n = 0; n < 2; n++) {
        ldmatrix_transposed(b, left(m, 32 + 16 * kk, 16 * n, lane));
        mma_f16(y[2 * n], a, b[0], b[1]);
        mma_f16(y[2 * n + 1], a, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int kk = 0; kk < 2; kk++) {
    if (kk >= (warp >> 1)) {
      const float(*yk)[4] = y + 2 * kk;
      const uint32_t a[4] = {pack_half(-yk[0][0], -yk[0][1]), pack_half(-yk[0][2], -yk[0][3]),
                             pack_half(-yk[1][0], -yk[1][1]), pack_half(-yk[1][2], -yk[1][3])};
      uint32_t b[4];
      ldmatrix_transposed(b, left(m, 16 * kk, c0, lane));
      mma_f16(z[0], a, b[0], b[1]);
      mma_f16(z[1], a, b[2], b[3]);
    }
  }
  write_tiles(record->solve, r0, c0, z, lane);
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
