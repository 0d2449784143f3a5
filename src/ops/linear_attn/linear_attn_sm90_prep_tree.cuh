// kda_sm90 prep: the tree over a chunk's tokens, and the decayed Gram matrices level by level.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_decay.cuh"

namespace linnet::ops::sm90::prep {

// A lane's channels of the warp's 16 tokens, f16. In a node of m tokens: K and Q with the decay from before the
// node's first token, K with the decay to its last one.
struct Operands {
  Half4 k_in[16], q_in[16], k_out[16];
};

struct RawTokens {
  uint2 q[4], k[4];
};
__device__ __forceinline__ void read_raw(RawTokens& r, int quad, uint32_t rows) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    r.q[i] = load_shared(rows + row_offset(raw_row(kRawQ, 4 * quad + i)));
    r.k[i] = load_shared(rows + row_offset(raw_row(kRawK, 4 * quad + i)));
  }
}
// A raw token to a node of one token.
template <class T>
__device__ __forceinline__ void make_node(Operands& x, int i, const Smem& s, int warp, const uint2& q, const uint2& k,
                                          const Half4& decay) {
  const float2 n = s.norm[warp][i];
  const float2 q0 = unpack<T>(q.x), q1 = unpack<T>(q.y), k0 = unpack<T>(k.x), k1 = unpack<T>(k.y);
  x.k_out[i] = pack_half4(k0.x * n.y, k0.y * n.y, k1.x * n.y, k1.y * n.y);
  x.k_in[i] = x.k_out[i] * decay;
  x.q_in[i] = pack_half4(q0.x * n.x, q0.y * n.x, q1.x * n.x, q1.y * n.x) * decay;
}

// The level that joins nodes of m tokens takes K and Q rows of the later nodes and K rows of the earlier ones.
enum Part { kLaterK, kLaterQ, kEarlierK };

// A warp's row of packed row `packed` (0 to 7) of a part. Levels 1 and 2: a quad's rows take its 12 raw ones. Levels 4 and 8: 24 rows each.
template <int m>
__host__ __device__ constexpr int operand_row(int part, int packed) {
  if (m >= 4) return (m == 8 ? 24 : 0) + 8 * part + packed;
  const int slot =
      part == kEarlierK ? 3 + m : 2 * (m - 1) + part;  // later K and Q of level 1, of level 2, earlier K of either
  return 12 * (packed >> 1) + 2 * slot + (packed & 1);
}
template <int m>
__device__ __forceinline__ void store_token(uint32_t rows, const Operands& x, int i) {
  const int packed = (i / (2 * m)) * m + i % m;
  if (i & m) {
    store_operand(rows + row_offset(operand_row<m>(kLaterK, packed)), x.k_in[i]);
    store_operand(rows + row_offset(operand_row<m>(kLaterQ, packed)), x.q_in[i]);
  } else {
    store_operand(rows + row_offset(operand_row<m>(kEarlierK, packed)), x.k_out[i]);
  }
}
// Token i from a node of m tokens to one of 2m, whose other half decays by `other`.
template <int m>
__device__ __forceinline__ void join_token(Operands& x, int i, Half4 other) {
  if (i & m) {
    x.k_in[i] = x.k_in[i] * other;
    x.q_in[i] = x.q_in[i] * other;
  } else {
    x.k_out[i] = x.k_out[i] * other;
  }
}
// decay: of node 0 and, 32 apart, the others.
template <int m>
__device__ __forceinline__ void store_and_join(Operands& x, uint32_t rows, const Half4* decay) {
#pragma unroll
  for (int node = 0; node < 16 / m; node++) {
    const Half4 other = decay[32 * (node ^ 1)];
#pragma unroll
    for (int i = m * node; i < m * (node + 1); i++) {
      store_token<m>(rows, x, i);
      join_token<m>(x, i, other);
    }
  }
}

// Products of the outer levels.
struct Grams {
  float level16[2][4];  // [8 tiles of columns]: 16 K rows (even warps) or Q rows (odd) of the pair's later warp
  float level32[4][4];  // 16 K rows (warps 0, 1) or Q rows (2, 3) of token block 2 (even warps) or 3
};

// Products of levels 1 and 2 of 8 tokens: [4 K, 4 Q rows of level 1; of level 2] x 4 earlier K rows of either. Rows of K go to s.lower,
// of Q to s.attend.
__device__ __forceinline__ void multiply_pairs(Smem& s, uint32_t rows, int half, int warp, int lane) {
  const int row = lane & 7;
  const uint32_t quad = rows + row_offset(24 * half + 12 * (row >> 1 & 1) + (row & 1));
  const uint32_t left = quad + row_offset(2 * (2 * (lane >> 3 & 1) + (row >> 2))) + (lane >> 4) * 16,
                 right = quad + row_offset(2 * (4 + (row >> 2))) + (lane >> 3) * 16;
  float d[4] = {};
#pragma unroll
  for (int kk = 0; kk < 4; kk++) {
    uint32_t l[2][4], r[4];
    ldmatrix(r, right + kk * 64);
    ldmatrix(l[0], left + kk * 64);
    ldmatrix(l[1], left + kk * 64 + 32);
    mma_f16(d, l[0], r[0], r[1]);
    mma_f16(d, l[1], r[2], r[3]);
  }
  // The lane's useful columns: level 1 in lanes with t < 2, level 2 in the others.
  const int g = lane >> 2, t = lane & 3, packed = g & 3;
  if ((packed >> 1) != (t & 1)) return;  // tokens of different nodes
  const bool first = t < 2, is_q = g & 4;
  const int i = first ? 2 * packed + 1 : 2 * packed + 2 - (packed & 1);
  const int j = first ? 2 * packed : 4 * (packed >> 1);
  const float x0 = first ? (packed & 1 ? d[1] : d[0]) : d[2];
  char* const attend = s.attend[warp] + (8 * half + i) * kAttendStride + (8 * half + j) * 2;
  float* const lower = s.lower[warp][half] + j * kLowerStride + i;
  if (is_q) {
    store_half(attend, x0);
    if (!first) store_half(attend + 2, d[3]);
  } else {
    lower[0] = x0;
    if (!first) lower[kLowerStride] = d[3];
  }
}

// Products of levels 4 and 8: [8 K rows; 8 Q rows] x 8 earlier K rows. Rows of K go to s.lower (4) and s.solve (8), of Q to s.attend.
__device__ __forceinline__ void multiply_levels(Smem& s, uint32_t rows, int warp, int lane) {
  float d4[4] = {}, d8[4] = {};
  const int row = lane & 7;
  const uint32_t left = rows + row_offset(8 * (lane >> 3 & 1) + row) + (lane >> 4) * 16,
                 right = rows + row_offset(16 + row) + (lane >> 3) * 16;
  constexpr uint32_t k8 = 24 * kRowStride;
#pragma unroll
  for (int kk = 0; kk < 4; kk++) {
    uint32_t l4[2][4], l8[2][4], r4[4], r8[4];
    ldmatrix(r4, right + kk * 64);
    ldmatrix(l4[0], left + kk * 64);
    ldmatrix(r8, right + k8 + kk * 64);
    ldmatrix(l8[0], left + k8 + kk * 64);
    ldmatrix(l4[1], left + kk * 64 + 32);
    ldmatrix(l8[1], left + k8 + kk * 64 + 32);
    mma_f16(d4, l4[0], r4[0], r4[1]);
    mma_f16(d8, l8[0], r8[0], r8[1]);
    mma_f16(d4, l4[1], r4[2], r4[3]);
    mma_f16(d8, l8[1], r8[2], r8[3]);
  }
  const int g = lane >> 2, t2 = (lane & 3) * 2;
  char* const attend = s.attend[warp] + t2 * 2;
  store_shared(smem_address(s.solve) + (16 * warp + 8 + g) * kMatrixStride + (16 * warp + t2) * 2,
               pack_half(d8[0], d8[1]));
  *reinterpret_cast<uint32_t*>(attend + (8 + g) * kAttendStride) = pack_half(d8[2], d8[3]);
  const int half = g >> 2, i = 4 + (g & 3);  // token in its 8
  if (half != t2 >> 2) return;               // tokens of different nodes
  float* const lower = s.lower[warp][half] + (t2 & 3) * kLowerStride + i;
  lower[0] = d4[0];
  lower[kLowerStride] = d4[1];
  *reinterpret_cast<uint32_t*>(s.attend[warp] + (8 * half + i) * kAttendStride + (8 * half + (t2 & 3)) * 2) =
      pack_half(d4[2], d4[3]);
}

// From a warp's raw rows to nodes of 16 tokens, with the products of the levels on the way; decays over all 16 to s. gate: Gate, or
// GivenDecays.
template <class B, class GateOrDecays>
__device__ __forceinline__ void climb(Operands& x, GateOrDecays&& gate, bool normalize, Smem& s, int warp, int lane) {
  const uint32_t base = smem_address(s.rows[warp]), raw = base + lane * 8, mine = operand_address(s, warp, lane);
  // All gates first: while few registers are taken, the compiler interleaves them.
  float sum_log2[4] = {}, of8[2][4];
  Half4* const later =
      reinterpret_cast<Half4*>(s.solve + 16 * warp * kMatrixStride) + lane;  // decays of levels 4 and 8
  Decays d[4];
#pragma unroll
  for (int quad = 0; quad < 4; quad++) {
    float total[4];
    if constexpr (B::kRawRows)
      make_decays<B::kGate, typename B::T>(d[quad], total, gate, raw + row_offset(raw_row(kRawZ, 4 * quad)), sum_log2);
    else make_decays(d[quad], total, gate, quad, sum_log2);
    later[32 * quad] = pack_half4(total[0], total[1], total[2], total[3]);
#pragma unroll
    for (int c = 0; c < 4; c++) of8[quad >> 1][c] = quad & 1 ? of8[quad >> 1][c] * total[c] : total[c];
  }
  *reinterpret_cast<float4*>(&s.total_log2[warp][4 * lane]) =
      make_float4(sum_log2[0], sum_log2[1], sum_log2[2], sum_log2[3]);
  *reinterpret_cast<float4*>(&s.total[warp][4 * lane]) =
      make_float4(of8[0][0] * of8[1][0], of8[0][1] * of8[1][1], of8[0][2] * of8[1][2], of8[0][3] * of8[1][3]);
#pragma unroll
  for (int half = 0; half < 2; half++)
    later[32 * (4 + half)] = pack_half4(of8[half][0], of8[half][1], of8[half][2], of8[half][3]);
  wait_for_load<0>();
  norms<B>(s, normalize, warp, lane);
  // A lane's rows of a quad have been read by all lanes before operands take their place.
#pragma unroll
  for (int quad = 0; quad < 4; quad++) {
    RawTokens r;
    read_raw(r, quad, raw);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) make_node<typename B::T>(x, 4 * quad + i, s, warp, r.q[i], r.k[i], d[quad].of1[i]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      store_token<1>(mine, x, 4 * quad + i);
      join_token<1>(x, 4 * quad + i, d[quad].of1[i ^ 1]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      store_token<2>(mine, x, 4 * quad + i);
      join_token<2>(x, 4 * quad + i, d[quad].of2[(i >> 1) ^ 1]);
    }
    if (quad & 1) {
      __syncwarp();
      multiply_pairs(s, base, quad >> 1, warp, forget(lane));
    }
  }
  __syncwarp();
  store_and_join<4>(x, mine, later);
  store_and_join<8>(x, mine, later + 4 * 32);
  __syncwarp();
  multiply_levels(s, base, warp, forget(lane));
  __syncwarp();
}

// Rows of the outer levels' operands, of the 4 * 48 rows of all warps. Level 16: K and Q of odd warps, K of even ones, at their
// warp's first row. Level 32: K of warps 0 and 1, K and Q of 2 and 3, where the warps have room left.
__device__ __forceinline__ int level32_row(int block, bool is_q) {
  constexpr int kEarlier = 0x5010;  // bytes: rows 16 and 80 of blocks 0 and 1
  if (block < 2) return kEarlier >> (8 * block) & 0xff;
  return is_q ? (block == 2 ? 128 : 32) : (block == 2 ? 112 : 176);
}

__device__ __forceinline__ void store_rows(uint32_t at, const Half4 (&x)[16]) {
#pragma unroll
  for (int i = 0; i < 16; i++) store_operand(at + row_offset(i), x[i]);
}
__device__ __forceinline__ void scale_rows(Half4 (&x)[16], const Half4& f) {
#pragma unroll
  for (int i = 0; i < 16; i++) x[i] = x[i] * f;
}

__device__ __forceinline__ void store_level16(const Operands& x, const Smem& s, int warp, int lane) {
  const uint32_t mine = operand_address(s, warp, lane);
  if (warp & 1) {
    store_rows(mine, x.k_in);
    store_rows(mine + row_offset(16), x.q_in);
  } else {
    store_rows(mine, x.k_out);
  }
}
// Nodes of 16 tokens to nodes of 32. other: decay over the pair's other half.
__device__ __forceinline__ void store_level32(Operands& x, const float4& other, const Smem& s, int warp, int lane) {
  const Half4 factor = pack_half4(other.x, other.y, other.z, other.w);
  if (warp & 1) {
    scale_rows(x.k_in, factor);
    scale_rows(x.q_in, factor);
  } else {
    scale_rows(x.k_out, factor);
  }
  const uint32_t rows = operand_address(s, 0, lane);
  if (warp & 2) {
    store_rows(rows + row_offset(level32_row(warp, false)), x.k_in);
    store_rows(rows + row_offset(level32_row(warp, true)), x.q_in);
  } else {
    store_rows(rows + row_offset(level32_row(warp, false)), x.k_out);
  }
}

// Products of levels 16 and 32: a warp takes the K or the Q rows of one later block.
__device__ __forceinline__ void gram_outer(Grams& g, const Smem& s, int warp, int lane) {
  const uint32_t all = smem_address(s.rows[0]);
  const uint32_t left = all + (lane & 15) * kRowStride + (lane >> 4) * 16;
  const uint32_t right = all + ((lane & 7) + ((lane >> 4) << 3)) * kRowStride + ((lane >> 3) & 1) * 16;
  const int pair = warp >> 1;
  const uint32_t left16 = left + row_offset(kWarpRows * (2 * pair + 1) + 16 * (warp & 1)),
                 left32 = left + row_offset(level32_row(2 + (warp & 1), warp & 2));
  const uint32_t right16 = right + row_offset(kWarpRows * 2 * pair),
                 right32 = right + row_offset(level32_row(0, false)),
                 right33 = right + row_offset(level32_row(1, false));
#pragma unroll
  for (int kk = 0; kk < 8; kk++) {
    uint32_t a16[4], a32[4], b16[4], b32[4], b33[4];
    ldmatrix(a32, left32 + kk * 32);
    ldmatrix(b32, right32 + kk * 32);
    ldmatrix(b33, right33 + kk * 32);
    ldmatrix(a16, left16 + kk * 32);
    ldmatrix(b16, right16 + kk * 32);
    mma_f16(g.level32[0], a32, b32[0], b32[1]);
    mma_f16(g.level32[1], a32, b32[2], b32[3]);
    mma_f16(g.level32[2], a32, b33[0], b33[1]);
    mma_f16(g.level32[3], a32, b33[2], b33[3]);
    mma_f16(g.level16[0], a16, b16[0], b16[1]);
    mma_f16(g.level16[1], a16, b16[2], b16[3]);
  }
}

}  // namespace linnet::ops::sm90::prep
