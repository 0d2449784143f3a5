// kda_sm90 prep: decays over whole blocks, and the products of different ones.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_tree.cuh"

namespace linnet::ops::sm90::prep {

// Rows of s.between: each warp's over the blocks before it and behind it, for the record's rows; over blocks i to j, neither the first nor the last,
// for products of blocks; ones.
__host__ __device__ constexpr int before(int warp) { return warp; }
__host__ __device__ constexpr int behind(int warp) { return kWarps + warp; }
__host__ __device__ constexpr int range(int i, int j) { return 2 * kWarps + (i - 1) * (14 - i) / 2 + j - i; }
constexpr int kOnes = kRanges - 1;
static_assert(range(6, 6) + 1 == kOnes);
// A lane of matrix instructions finds the factors of products together: pair t of 16-byte piece p of a row of operands at [p / 4][t][p % 4]. The
// warps' own rows have channels in order.
__device__ __forceinline__ uint32_t product_word(int pair) {
  return (pair >> 4) * 64 + (pair & 3) * 16 + (pair >> 2 & 3) * 4;
}

// Ranges from block kBegin on, of two channels.
template <int kBegin>
__device__ __forceinline__ void make_ranges_from(Smem& s, int pair) {
  const uint32_t from = smem_address(log2_total(s, 0)) + pair * 8, to = smem_address(s.between) + product_word(pair);
  float x = 0.f, y = 0.f;
#pragma unroll
  for (int block = kBegin; block + 1 < kWarps; block++) {
    const uint2 l = load_shared(from + block * (kDim * 4));
    x += __uint_as_float(l.x);
    y += __uint_as_float(l.y);
    store_shared(to + range(kBegin, block) * (kDim * 2), pack_half(exp2_fast(x), exp2_fast(y)));
  }
}
// Those of all products, shared out: half of the channels a warp.
__device__ __forceinline__ void make_ranges(Smem& s, int warp, int lane) {
  const int pair = (warp & 4) * 8 + lane;
  switch (warp & 3) {
    case 0: return make_ranges_from<1>(s, pair);
    case 1: s.between[kOnes][pair] = 0x3c003c00; return make_ranges_from<2>(s, pair);
    case 2: make_ranges_from<3>(s, pair); return make_ranges_from<6>(s, pair);
    default: make_ranges_from<4>(s, pair); return make_ranges_from<5>(s, pair);
  }
}
// The warp's own rows, a lane four channels; the last warp also writes the chunk's decay to the record.
__device__ __forceinline__ void make_own_ranges(Record* record, Smem& s, int warp, int lane) {
  const uint32_t from = smem_address(log2_total(s, 0)) + lane * 16, to = smem_address(s.between) + lane * 8;
  const auto decays = [&](int first, int end) {  // few registers: the rows are in the others
    float4 x = {};
#pragma unroll 1
    for (int block = first; block < end; block++) {
      uint32_t l[4];
      load_shared(l, from + block * (kDim * 4));
      x.x += __uint_as_float(l[0]), x.y += __uint_as_float(l[1]);
      x.z += __uint_as_float(l[2]), x.w += __uint_as_float(l[3]);
    }
    x.x = exp2_fast(x.x), x.y = exp2_fast(x.y), x.z = exp2_fast(x.z), x.w = exp2_fast(x.w);
    return x;
  };
  const auto put = [&](int row, const float4& x) {
    store_shared(to + row * (kDim * 2), pack_half(x.x, x.y), pack_half(x.z, x.w));
  };
  put(before(warp), decays(0, warp));
  put(behind(warp), decays(warp + 1, kWarps));
  if (warp + 1 == kWarps) *reinterpret_cast<float4*>(&record->decay[4 * lane]) = decays(0, kWarps);
  __syncwarp();
}
// A warp's own row, the first of a lane's pieces.
__device__ __forceinline__ uint32_t range_piece(const Smem& s, int row, int lane) {
  return smem_address(s.between[row]) + (lane & 3) * 16;
}

// The products [K; Q rows of block `later`] x K rows of block `earlier` of one warp, 3 or 4 of the 28: even warps those of a later block of
// the second half with all of the first, odd warps those inside a half. Among an odd warp's is the one that joins its pair of blocks to 16 tokens.
struct Products {
  struct Product {
    uint16_t later, earlier;  // bytes to the block's rows
    uint16_t decays, solve;   // to the row of s.between, to the block of s.solve
    uint16_t attend, piece;   // to the rows of record->attend, their 16-byte piece times 16
    uint16_t same, last;      // the next one has the same later block; there is none
  } of[kWarps][4];
};
constexpr Products make_products() {
  constexpr int kInside[4][3][2] = {
      {{7, 6}, {7, 5}, {7, 4}}, {{6, 5}, {6, 4}, {1, 0}}, {{5, 4}, {2, 1}, {2, 0}}, {{3, 2}, {3, 1}, {3, 0}}};
  Products p = {};
  for (int warp = 0; warp < kWarps; warp++) {
    const bool inside = warp & 1;
    for (int i = 0; i < (inside ? 3 : 4); i++) {
      const int later = inside ? kInside[warp / 2][i][0] : 7 - warp / 2,
                earlier = inside ? kInside[warp / 2][i][1] : 3 - i;
      const int row = earlier + 1 == later ? kOnes : range(earlier + 1, later - 1);
      p.of[warp][i] = {static_cast<uint16_t>(later * kTileBytes),
                       static_cast<uint16_t>(earlier * kTileBytes),
                       static_cast<uint16_t>(row * kDim * 2),
                       static_cast<uint16_t>(later * kBlock * kMatrixStride + earlier * 16),
                       static_cast<uint16_t>(later * kBlock * 128),
                       static_cast<uint16_t>(earlier * 16),
                       inside ? i < 2 && later == kInside[warp / 2][i + 1][0] : i < 3,
                       i == (inside ? 2 : 3)};
    }
  }
  return p;
}
__constant__ const Products kProducts = make_products();
// The blocks 2 pair, 2 pair + 1 that an odd warp joins.
__device__ __forceinline__ int pair_of(int warp) { return 0x1203 >> (2 * (warp - 1)) & 3; }

// Rows of K go to s.solve, of Q to the record.
__device__ __forceinline__ void multiply_blocks(Record* record, Smem& s, int warp, int lane) {
  const int row = lane & 7, matrix = lane >> 3, g = lane >> 2, t = lane & 3;
  const uint32_t rows = smem_address(s.rows) + row * 128;
  const uint32_t left = rows + (matrix & 1) * kTensorBytes + (((matrix >> 1) ^ row) << 4),
                 right = rows + kRawK * kTensorBytes + ((matrix ^ row) << 4),
                 between = smem_address(s.between) + t * 16;
  const uint32_t solve = smem_address(s.solve) + g * kMatrixStride + t * 4;
  char* const attend = record->attend + g * 128 + t * 4;
  const Products::Product* p = kProducts.of[warp];
#pragma unroll 1
  while (true) {
    uint32_t a[8][4];
#pragma unroll
    for (int k = 0; k < 8; k++) ldmatrix(a[k], ((left + p->later) ^ ((k & 3) << 5)) + (k >> 2) * kPanelBytes);
#pragma unroll 1
    while (true) {
      const uint32_t from = right + p->earlier, decays = between + p->decays;
      float d[2][4] = {};
#pragma unroll
      for (int k = 0; k < 4; k++) {
        uint32_t b[4], f[4];
        load_shared(f, decays + k * 64);
        ldmatrix(b, (from ^ ((k & 1) << 6)) + (k >> 1) * kPanelBytes);
#pragma unroll
        for (int j = 0; j < 4; j++) b[j] = mul_half2(b[j], f[j]);
        mma_f16(d[0], a[2 * k], b[0], b[1]);
        mma_f16(d[1], a[2 * k + 1], b[2], b[3]);
      }
      store_shared(solve + p->solve, pack_half(d[0][0] + d[1][0], d[0][1] + d[1][1]));
      *reinterpret_cast<uint32_t*>(attend + (p->attend + (p->piece ^ (g << 4)))) =
          pack_half(d[0][2] + d[1][2], d[0][3] + d[1][3]);
      if (!p->same) break;
      p++;
    }
    if (p->last) return;
    p++;
  }
}

}  // namespace linnet::ops::sm90::prep
