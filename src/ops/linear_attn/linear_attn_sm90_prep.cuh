// kda_sm90 prep: everything of a chunk that does not need the state, for all chunks and heads at once, written as Records.
//
// Threads a workgroup of 4 warps per chunk and head; warp w owns tokens 16w..16w+15 of the chunk.
// Decay   G never appears: all factors are products of per-token decays in a binary tree over tokens. A node of 2m tokens joins an
//         earlier and a later half; the pairs (later i, earlier j) need e^(G_i - G_j) = prefix(i in its half) * suffix(j in its half),
//         two numbers in [0, 1] for any gate, so nothing overflows, nothing is bounded, and row i sees no token after it, in bits.
//         Levels m = 1, 2, 4, 8 inside a warp, 16 and 32 across warps; the level of the whole chunk gives K e^G, Q e^G, K e^(G_end - G).
// Gram    per level one product [K rows; Q rows] (later) x K rows (earlier), f16 operands (|k| <= 1), f32 sums.
// Inverse of I + L: 16x16 blocks by substitution in f32, then joined twice with f16 products.
// Smem    27,648 B of operands (reused by the inverse), 16,384 B of raw gates, 16,384 B of normalised q and k, 2.8 KB: 3 workgroups per SM.
// Lane    a lane owns channels 4l..4l+3; the two passes (halves) take two each, which are neighbours in the record's panels.
// Traffic per (chunk, head): reads 49,280 B, writes 66,048 B.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_inverse.cuh"

namespace linnet::ops::sm90::prep {

// Sums v[0..n) over the warp, n = 16 or 32; lane l returns the sum of v[l * n / 32]. Each step halves the values a lane holds.
template <int n, int bit = 16>
__device__ __forceinline__ float reduce_many(const float (&v)[n]) {
  const bool upper = threadIdx.x & bit;
  if constexpr (n == 1) {
    float x[1] = {v[0] + __shfl_xor_sync(~0u, v[0], bit)};
    if constexpr (bit > 1) return reduce_many<1, bit / 2>(x);
    return x[0];
  } else {
    float x[n / 2];
#pragma unroll
    for (int i = 0; i < n / 2; i++) {
      x[i] = (upper ? v[i + n / 2] : v[i]) + __shfl_xor_sync(~0u, upper ? v[i] : v[i + n / 2], bit);
    }
    if constexpr (bit > 1) return reduce_many<n / 2, bit / 2>(x);
    return x[0];
  }
}

// Up to kChunk tokens of one head.
struct Chunk {
  int sequence, head;
  int64_t token;  // first
  int n_valid;
};

// The chunk of record number item (slot * n_heads + head); false where the slot is unused.
__device__ __forceinline__ bool locate(const KdaPrefillSm90& a, int64_t item, Chunk& c) {
  const int64_t slot = item / a.n_heads;
  const SeqStart start{a.seq_start, a.seq_start_is_64};
  int lo = 0, hi = a.n_sequences - 1;
  while (lo < hi) {
    const int mid = (lo + hi + 1) / 2;
    if (first_slot(start[mid], mid) <= slot) lo = mid;
    else hi = mid - 1;
  }
  const int64_t begin = start[lo];
  c.sequence = lo;
  c.head = static_cast<int>(item % a.n_heads);
  c.token = begin + (slot - first_slot(begin, lo)) * kChunk;
  const int64_t left = start[lo + 1] - c.token;
  c.n_valid = left < kChunk ? static_cast<int>(left) : kChunk;
  return left > 0;
}

// Starts the copies of a chunk's raw rows to shared memory; compute waits for them. Each warp copies its own 16 rows of z, none of them read
// by another one: a warp may load the next chunk when it has read this one's.
__device__ __forceinline__ void load(const KdaPrefillSm90& a, const Chunk& c, Smem& s, int thread) {
  const int warp = thread >> 5, lane = thread & 31;
  const int n_mine = c.n_valid - 16 * warp;  // valid tokens of this warp: rows i < n_mine
  const int64_t origin = (c.token + 16 * warp) * a.token_stride + c.head * kDim;
  const uint32_t z_rows = smem_address(s.z) + 16 * warp * 256;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const int row = 2 * i + (lane >> 4), piece = lane & 15;
    const auto* from = static_cast<const __nv_bfloat16*>(a.z) + origin + row * a.token_stride + piece * 8;
    if (row < n_mine) copy16(z_rows + row * 256 + piece * 16, from, 16);
    else
      *reinterpret_cast<uint4*>(s.z + (16 * warp + row) * 256 + piece * 16) =
          make_uint4(kMinusInf2, kMinusInf2, kMinusInf2, kMinusInf2);
  }
}

// The record of a chunk whose load has been started, by a workgroup of 4 whole warps; thread counts from 0 in it, barrier is a hardware
// barrier of its own. next: the chunk whose load to start as soon as there is room, or null. On return each thread has written its part of
// the record; the workgroup meets at its barrier (workgroup_sync) before anyone computes again in the same shared memory.
template <KdaGate kGate>
__device__ __forceinline__ void compute(const KdaPrefillSm90& a, const Chunk& c, Record* record, Smem& s, int thread,
                                        int barrier, const Chunk* next) {
  const int warp = thread >> 5, lane = thread & 31;
  const float4 bias4 = __ldg(reinterpret_cast<const float4*>(a.gate.dt_bias + c.head * kDim + 4 * lane));
  const float a_log = __ldg(a.gate.a_log + c.head);
  const int n_mine = c.n_valid - 16 * warp;  // valid tokens of this warp: rows i < n_mine
  const int64_t origin = (c.token + 16 * warp) * a.token_stride + c.head * kDim;

  // q and k rows, their norms, and the diagonal of Q K^T, which needs no decay. Rows beyond the sequence: its last row times 0.
  uint32_t q[16], k[16];
  float attend_diagonal;
  {
    const int last = n_mine < 1 ? -16 * warp : (n_mine < 16 ? n_mine : 16) - 1;
    const auto* g_q = static_cast<const __nv_bfloat16*>(a.q) + origin + 4 * lane;
    const auto* g_k = static_cast<const __nv_bfloat16*>(a.k) + origin + 4 * lane;
    uint2 q_raw[16], k_raw[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const int64_t offset = (i < last ? i : last) * a.token_stride;
      q_raw[i] = __ldg(reinterpret_cast<const uint2*>(g_q + offset));
      k_raw[i] = __ldg(reinterpret_cast<const uint2*>(g_k + offset));
    }
    if (thread < kChunk) {
      const bool valid = thread < c.n_valid;
      const int64_t at = (c.token + thread) * a.n_heads + c.head;
      s.beta[thread] = valid ? sigmoid(__bfloat162float(static_cast<const __nv_bfloat16*>(a.beta)[at])) : 0.f;
    }
    float squares[32], qk[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const float2 q0 = unpack_bf16(q_raw[i].x), q1 = unpack_bf16(q_raw[i].y), k0 = unpack_bf16(k_raw[i].x),
                   k1 = unpack_bf16(k_raw[i].y);
      squares[i] = q0.x * q0.x + q0.y * q0.y + q1.x * q1.x + q1.y * q1.y;
      squares[16 + i] = k0.x * k0.x + k0.y * k0.y + k1.x * k1.x + k1.y * k1.y;
      qk[i] = q0.x * k0.x + q0.y * k0.y + q1.x * k1.x + q1.y * k1.y;
    }
    float inverse = rsqrtf(reduce_many<32>(squares) + kL2Eps);
    if ((lane & 15) >= n_mine) inverse = 0;
    attend_diagonal = reduce_many<16>(qk);
    attend_diagonal *= __shfl_sync(~0u, inverse, lane >> 1) * __shfl_sync(~0u, inverse, 16 + (lane >> 1));
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const float q_norm = __shfl_sync(~0u, inverse, i), k_norm = __shfl_sync(~0u, inverse, 16 + i);
      const float2 q0 = unpack_bf16(q_raw[i].x), q1 = unpack_bf16(q_raw[i].y), k0 = unpack_bf16(k_raw[i].x),
                   k1 = unpack_bf16(k_raw[i].y);
      q[i] = pack_half(q0.x * q_norm, q0.y * q_norm);
      k[i] = pack_half(k0.x * k_norm, k0.y * k_norm);
      s.half1[warp][i][lane] = pack_half(q1.x * q_norm, q1.y * q_norm);
      s.half1[warp][16 + i][lane] = pack_half(k1.x * k_norm, k1.y * k_norm);
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();

  const float rate = __expf(a_log);
  float2 bias = make_float2(bias4.x * kLog2e, bias4.y * kLog2e);
  Accumulators acc = {};
  const uint32_t inner = smem_address(s.inner.warp[warp]);
#pragma unroll 1
  for (int half = 0; half < 2; half++) {
    float prefix[16][2], suffix[16][2];
    float2 sum_log2 = make_float2(0, 0);
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const float2 z =
          unpack_bf16(*reinterpret_cast<const uint32_t*>(s.z + (16 * warp + i) * 256 + lane * 8 + half * 4));
      const float l0 = log2_decay<kGate>(z.x, bias.x, rate, a.gate.lower_bound);
      const float l1 = log2_decay<kGate>(z.y, bias.y, rate, a.gate.lower_bound);
      prefix[i][0] = exp2_fast(l0);
      prefix[i][1] = exp2_fast(l1);
      sum_log2.x += l0;
      sum_log2.y += l1;
    }
    if (half == 1 && next) {
      __syncwarp();
      load(a, *next, s, thread);
    }

    const uint32_t mine = inner + lane * 4;
    constexpr uint32_t kSecond = 24 * kOperandStride;
    store_level<1>(mine, k, q, prefix, suffix);
    store_level<2>(mine + kSecond, k, q, prefix, suffix);
    __syncwarp();
    gram<1>(&acc.inner[0], inner, inner + 16 * kOperandStride);
    gram<1>(&acc.inner[1], inner + kSecond, inner + kSecond + 16 * kOperandStride);
    __syncwarp();
    store_level<4>(mine, k, q, prefix, suffix);
    store_level<8>(mine + kSecond, k, q, prefix, suffix);
    __syncwarp();
    gram<1>(&acc.inner[2], inner, inner + 16 * kOperandStride);
    gram<1>(&acc.inner[3], inner + kSecond, inner + kSecond + 16 * kOperandStride);

    *reinterpret_cast<float2*>(&s.total[warp][2 * lane]) = make_float2(prefix[15][0], prefix[15][1]);
    *reinterpret_cast<float2*>(&s.total_log2[warp][2 * lane]) = sum_log2;
    // From here on f16: K and Q scaled from the block's start, K scaled to its end. What joins blocks is one more factor per channel.
    uint32_t k_end[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const uint32_t from_start = pack_half(prefix[i][0], prefix[i][1]);
      k_end[i] = i == 15 ? k[i] : mul_half2(k[i], pack_half(suffix[i][0], suffix[i][1]));
      k[i] = mul_half2(k[i], from_start);
      q[i] = mul_half2(q[i], from_start);
    }
    workgroup_sync(barrier);

    float2 total[4];
#pragma unroll
    for (int b = 0; b < 4; b++) total[b] = *reinterpret_cast<const float2*>(&s.total[b][2 * lane]);
    if (warp == 0) {
      float2 l = make_float2(0, 0);
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const float2 x = *reinterpret_cast<const float2*>(&s.total_log2[b][2 * lane]);
        l.x += x.x;
        l.y += x.y;
      }
      *reinterpret_cast<float2*>(&record->decay[64 * half + 2 * lane]) = make_float2(exp2_fast(l.x), exp2_fast(l.y));
    }

    // Levels 16 and 32: a warp is the later or the earlier part of each. One more factor per channel joins 16 tokens to 32.
    const uint32_t pair_rows = smem_address(s.outer.level16[warp >> 1]) + lane * 4;
    const uint32_t rows32 =
        smem_address(s.outer.level32) + ((warp & 2 ? 0 : 64) + 16 * (warp & 1)) * kOperandStride + lane * 4;
    const uint32_t join32 = warp == 0   ? pack_half(total[1].x, total[1].y)
                            : warp == 3 ? pack_half(total[2].x, total[2].y)
                                        : kOne2;
#pragma unroll
    for (int i = 0; i < 16; i++) {
      if (warp & 1) {
        store_shared(pair_rows + i * kOperandStride, k[i]);
        store_shared(pair_rows + (16 + i) * kOperandStride, q[i]);
      } else {
        store_shared(pair_rows + (32 + i) * kOperandStride, k_end[i]);
      }
      if (warp & 2) {
        store_shared(rows32 + i * kOperandStride, mul_half2(k[i], join32));
        store_shared(rows32 + (32 + i) * kOperandStride, mul_half2(q[i], join32));
      } else {
        store_shared(rows32 + i * kOperandStride, mul_half2(k_end[i], join32));
      }
    }

    // The whole chunk: factors from its start and to its end.
    float2 before = make_float2(1, 1), after = before;
#pragma unroll
    for (int b = 0; b < 4; b++) {
      if (b < warp) before = make_float2(before.x * total[b].x, before.y * total[b].y);
      if (b > warp) after = make_float2(after.x * total[b].x, after.y * total[b].y);
    }
    const uint32_t in = pack_half(before.x, before.y), out = pack_half(after.x, after.y);
    char* panel = record->k_in + half * kPanelBytes + 16 * warp * 128 + (lane & 3) * 4;
#pragma unroll
    for (int r = 0; r < 8; r++) {
      char* at = panel + r * 128 + (((lane >> 2) ^ r) << 4);
#pragma unroll
      for (int i = r; i < 16; i += 8) {
        *reinterpret_cast<uint32_t*>(at + (i - r) * 128) = mul_half2(k[i], in);
        *reinterpret_cast<uint32_t*>(at + (i - r) * 128 + offsetof(Record, q_in)) = mul_half2(q[i], in);
        *reinterpret_cast<uint32_t*>(at + (i - r) * 128 + offsetof(Record, k_out)) = mul_half2(k_end[i], out);
      }
    }
    if (half == 0) {
#pragma unroll
      for (int i = 0; i < 16; i++) {
        q[i] = s.half1[warp][i][lane];
        k[i] = s.half1[warp][16 + i][lane];
      }
      bias = make_float2(bias4.z * kLog2e, bias4.w * kLog2e);
    }
    workgroup_sync(barrier);
    {
      const uint32_t pair = smem_address(s.outer.level16[warp >> 1]);
      gram<2>(acc.level16, pair + (warp & 1) * 16 * kOperandStride, pair + 32 * kOperandStride);
      const uint32_t all = smem_address(s.outer.level32);
      gram<4>(acc.level32, all + (16 * (warp & 1) + 32 * (warp >> 1)) * kOperandStride, all + 64 * kOperandStride);
    }
    workgroup_sync(barrier);
  }

  scatter_gram(s, acc, attend_diagonal, warp, lane);
  __syncwarp();
  invert_diagonal(s, warp, lane);
  workgroup_sync(barrier);
  join_inverse(s, warp, lane, barrier);
  workgroup_sync(barrier);
  write_matrices(s, record, thread);
}

}  // namespace linnet::ops::sm90::prep
