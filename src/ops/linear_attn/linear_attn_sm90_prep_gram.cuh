// kda_sm90 prep: the decayed Gram matrices of a chunk, level by level of the tree over tokens.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_smem.cuh"

namespace linnet::ops::sm90::prep {

// One level inside a warp's 16 tokens: prefix and suffix factors belong to halves of m tokens and are joined to 2m afterwards.
template <int m>
__device__ __forceinline__ void store_level(uint32_t rows, const uint32_t (&k)[16], const uint32_t (&q)[16],
                                            float (&prefix)[16][2], float (&suffix)[16][2]) {
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const int packed = (i / (2 * m)) * m + i % m;  // row of its operand
    if (i & m) {
      const uint32_t f = pack_half(prefix[i][0], prefix[i][1]);
      store_shared(rows + packed * kOperandStride, mul_half2(k[i], f));
      store_shared(rows + (8 + packed) * kOperandStride, mul_half2(q[i], f));
    } else if (i % m == m - 1) {  // the last token of the earlier half: factor 1
      store_shared(rows + (16 + packed) * kOperandStride, k[i]);
    } else {
      store_shared(rows + (16 + packed) * kOperandStride, mul_half2(k[i], pack_half(suffix[i][0], suffix[i][1])));
    }
  }
#pragma unroll
  for (int base = 0; base < 16; base += 2 * m) {
#pragma unroll
    for (int x = 0; x < 2; x++) {
      const float earlier = prefix[base + m - 1][x], later = prefix[base + 2 * m - 1][x];
#pragma unroll
      for (int i = 0; i < m; i++) {
        suffix[base + i][x] = i == m - 1 ? later : suffix[base + i][x] * later;
        prefix[base + m + i][x] *= earlier;
      }
    }
  }
}

// d[16, 8 * n_tiles] += rows of a (16) times rows of b (8 * n_tiles), over the 64 channels of a half.
template <int n_tiles>
__device__ __forceinline__ void gram(float (*d)[4], uint32_t a_rows, uint32_t b_rows) {
  const int lane = threadIdx.x & 31;
  const uint32_t a_lane = a_rows + (lane & 15) * kOperandStride + (lane >> 4) * 16;
  const uint32_t b_lane = b_rows + (lane & 7) * kOperandStride + (lane >> 3) * 16;
#pragma unroll
  for (int kk = 0; kk < 2; kk++) {
    uint32_t a0[4], a1[4];
    ldmatrix(a0, a_lane + kk * 64);
    ldmatrix(a1, a_lane + kk * 64 + 32);
#pragma unroll
    for (int n = 0; n < n_tiles; n++) {
      uint32_t b[4];
      ldmatrix(b, b_lane + n * 8 * kOperandStride + kk * 64);
      mma_f16(d[n], a0, b[0], b[1]);
      mma_f16(d[n], a1, b[2], b[3]);
    }
  }
}

struct Accumulators {
  float inner[4][4];  // levels 1, 2, 4, 8: [8 K rows, 8 Q rows] x 8
  float level16[2][4];
  float level32[4][4];
};

__device__ __forceinline__ void store_half(uint32_t address, float x, bool wanted = true) {
  asm volatile(
      "{\n.reg .pred p;\n.reg .b16 h;\nsetp.ne.b32 p, %2, 0;\ncvt.rn.f16.f32 h, %1;\n@p st.shared.b16 [%0], h;\n}\n" ::
          "r"(address),
      "f"(x), "r"(static_cast<int>(wanted))
      : "memory");
}
__device__ __forceinline__ void store_float(uint32_t address, float x, bool wanted) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %2, 0;\n@p st.shared.f32 [%0], %1;\n}\n" ::"r"(address), "f"(x),
               "r"(static_cast<int>(wanted))
               : "memory");
}

// Where the level tiles belong in the 64 x 64 matrices.
__device__ __forceinline__ void scatter_gram(Smem& s, const Accumulators& acc, float attend_diagonal, int warp,
                                             int lane) {
  const int g = lane >> 2, t2 = (lane & 3) * 2;
  const uint32_t attend = smem_address(s.gram.attend), solve = smem_address(s.gram.solve);
  const uint32_t attend_block = attend + 16 * warp * (kMatrixStride + 2),
                 diagonal = smem_address(s.gram.diagonal[warp]);
  store_half(attend_block + (lane >> 1) * (kMatrixStride + 2), attend_diagonal);
#pragma unroll
  for (int level = 0; level < 4; level++) {
    const int m = 1 << level;
    const int i = (g / m) * 2 * m + m + g % m;
    const float beta = s.beta[16 * warp + i];
#pragma unroll
    for (int x = 0; x < 2; x++) {
      const int col = t2 + x, j = (col / m) * 2 * m + col % m;
      const bool same_node = g / m == col / m;
      store_float(diagonal + (j * 20 + i) * 4, beta * acc.inner[level][x], same_node);
      store_half(attend_block + i * kMatrixStride + j * 2, acc.inner[level][2 + x], same_node);
    }
  }
  // Levels 16 and 32: rows of K are L, times beta; rows of Q are attend as it is.
  const auto scatter = [&](uint32_t to, const float(*tile)[4], int n_tiles, int i0, bool is_k) {
    const float beta0 = is_k ? s.beta[i0 + g] : 1.f, beta1 = is_k ? s.beta[i0 + g + 8] : 1.f;
    const uint32_t at = to + (i0 + g) * kMatrixStride + t2 * 2;
#pragma unroll
    for (int n = 0; n < n_tiles; n++) {
      store_shared(at + n * 16, pack_half(beta0 * tile[n][0], beta0 * tile[n][1]));
      store_shared(at + n * 16 + 8 * kMatrixStride, pack_half(beta1 * tile[n][2], beta1 * tile[n][3]));
    }
  };
  const int pair = warp >> 1;
  scatter((warp & 1 ? attend : solve) + 64 * pair, acc.level16, 2, 32 * pair + 16, !(warp & 1));
  scatter(warp & 2 ? attend : solve, acc.level32, 4, 32 + 16 * (warp & 1), !(warp & 2));
}

}  // namespace linnet::ops::sm90::prep
