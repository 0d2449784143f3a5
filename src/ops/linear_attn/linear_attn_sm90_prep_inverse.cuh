// kda_sm90 prep: the inverse of I + L, and the chunk's two matrices to the record.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_gram.cuh"

namespace linnet::ops::sm90::prep {

// (I + L)^-1 of one diagonal block, column lane & 15 by substitution, in f32.
__device__ __forceinline__ void invert_diagonal(Smem& s, int warp, int lane) {
  const int c = lane & 15;
  float x[16];
#pragma unroll
  for (int i = 0; i < 16; i++) x[i] = i == c ? 1.f : 0.f;
#pragma unroll
  for (int j = 0; j < 15; j++) {
#pragma unroll
    for (int i4 = (j + 1) / 4; i4 < 4; i4++) {
      const float4 l = *reinterpret_cast<const float4*>(&s.gram.diagonal[warp][j][4 * i4]);
      const float lv[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
      for (int r = 0; r < 4; r++) {
        if (4 * i4 + r > j) x[4 * i4 + r] -= lv[r] * x[j];
      }
    }
  }
  const uint32_t to = smem_address(s.gram.solve) + 16 * warp * (kMatrixStride + 2) + c * 2;
#pragma unroll
  for (int i = 0; i < 16; i++) store_half(to + i * kMatrixStride, x[i], lane < 16);
}

// Addresses inside the f16 matrix for ldmatrix: left operand, and right operand (transposed on load).
__device__ __forceinline__ uint32_t left(uint32_t m, int row, int col, int lane) {
  return m + (row + (lane & 15)) * kMatrixStride + (col + (lane >> 4) * 8) * 2;
}

__device__ __forceinline__ void store_tiles(uint32_t at, const float (&z)[2][4]) {
#pragma unroll
  for (int n = 0; n < 2; n++) {
    store_shared(at + n * 16, pack_half(z[n][0], z[n][1]));
    store_shared(at + n * 16 + 8 * kMatrixStride, pack_half(z[n][2], z[n][3]));
  }
}

// Joins inverted blocks: M21 = -M22 (L21 M11), level 16 by warps 0 and 1, then level 32 by all.
__device__ __forceinline__ void join_inverse(Smem& s, int warp, int lane, int barrier) {
  const uint32_t m = smem_address(s.gram.solve);
  const int g = lane >> 2, t2 = (lane & 3) * 2;
  if (warp < 2) {
    const int r0 = 32 * warp + 16, c0 = 32 * warp;
    uint32_t a[4], b[4];
    float y[2][4] = {}, z[2][4] = {};
    ldmatrix(a, left(m, r0, r0, lane));
    ldmatrix_transposed(b, left(m, r0, c0, lane));
    mma_f16(y[0], a, b[0], b[1]);
    mma_f16(y[1], a, b[2], b[3]);
    const uint32_t ya[4] = {pack_half(-y[0][0], -y[0][1]), pack_half(-y[0][2], -y[0][3]), pack_half(-y[1][0], -y[1][1]),
                            pack_half(-y[1][2], -y[1][3])};
    ldmatrix_transposed(b, left(m, c0, c0, lane));
    mma_f16(z[0], ya, b[0], b[1]);
    mma_f16(z[1], ya, b[2], b[3]);
    __syncwarp();
    store_tiles(m + (r0 + g) * kMatrixStride + (c0 + t2) * 2, z);
  }
  workgroup_sync(barrier);
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
  workgroup_sync(barrier);
  store_tiles(m + (r0 + g) * kMatrixStride + (c0 + t2) * 2, z);
}

// The two matrices to the record: lower triangle, columns of the inverse times beta.
__device__ __forceinline__ void write_matrices(const Smem& s, Record* r, int thread) {
#pragma unroll
  for (int x = 0; x < 4; x++) {
    const int index = thread + kThreads * x, row = index >> 3, piece = index & 7;
    uint4 solve = make_uint4(0, 0, 0, 0), attend = solve;
    if (8 * piece <= row) {
      const uint4 sv = *reinterpret_cast<const uint4*>(s.gram.solve + row * kMatrixStride + piece * 16);
      attend = *reinterpret_cast<const uint4*>(s.gram.attend + row * kMatrixStride + piece * 16);
      const uint32_t in[4] = {sv.x, sv.y, sv.z, sv.w};
      uint32_t out[4], at[4] = {attend.x, attend.y, attend.z, attend.w};
#pragma unroll
      for (int p = 0; p < 4; p++) {
        const int j = 8 * piece + 2 * p;
        const float2 v = unpack_half(in[p]);
        out[p] = pack_half(j <= row ? v.x * s.beta[j] : 0.f, j + 1 <= row ? v.y * s.beta[j + 1] : 0.f);
        at[p] = j + 1 <= row ? at[p] : (j <= row ? at[p] & 0xffffu : 0u);
      }
      solve = make_uint4(out[0], out[1], out[2], out[3]);
      attend = make_uint4(at[0], at[1], at[2], at[3]);
    }
    const int offset = row * 128 + ((piece ^ (row & 7)) << 4);
    *reinterpret_cast<uint4*>(r->solve + offset) = solve;
    *reinterpret_cast<uint4*>(r->attend + offset) = attend;
  }
}

}  // namespace linnet::ops::sm90::prep
