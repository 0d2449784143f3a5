// kda_sm90 prep: everything of a chunk that does not need the state, for all chunks and heads at once, written as Records.
//
// Grid    one CTA of 4 warps per (record slot, head); warp w owns tokens 16w..16w+15 of the chunk.
// Decay   G never appears: all factors are products of per-token decays in a binary tree over tokens. A node of 2m tokens joins an
//         earlier and a later half; the pairs (later i, earlier j) need e^(G_i - G_j) = prefix(i in its half) * suffix(j in its half),
//         two numbers in [0, 1] for any gate, so nothing overflows, nothing is bounded, and row i sees no token after it, in bits.
//         Levels m = 1, 2, 4, 8 inside a warp, 16 and 32 across warps; the level of the whole chunk gives K e^G, Q e^G, K e^(G_end - G).
// Gram    per level one product [K rows; Q rows] (later) x K rows (earlier), f16 operands (|k| <= 1), f32 sums.
// Inverse of I + L: 16x16 blocks by substitution in f32, then joined twice with f16 products.
// Smem    27,648 B of operands (reused by the inverse), 16,384 B of raw gates, 16,384 B of normalised q and k, 2.8 KB: 3 CTAs per SM.
// Lane    a lane owns channels 4l..4l+3; the two passes (halves) take two each, which are neighbours in the record's panels.
// Traffic per (chunk, head): reads 49,280 B, writes 66,048 B.
#include "ops/linear_attn/linear_attn_sm90.cuh"
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int kThreads = 128;
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

__device__ __forceinline__ void store_shared(uint32_t address, uint32_t x) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

struct Chunk {
  int sequence, head;
  int64_t token;  // first
  int n_valid;
};

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
__device__ __forceinline__ void join_inverse(Smem& s, int warp, int lane) {
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
  __syncthreads();
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
  __syncthreads();
  store_tiles(m + (r0 + g) * kMatrixStride + (c0 + t2) * 2, z);
}

// The two matrices to the record: lower triangle, columns of the inverse times beta.
__device__ __forceinline__ void write_matrices(const Smem& s, Record* r) {
#pragma unroll
  for (int x = 0; x < 4; x++) {
    const int index = threadIdx.x + kThreads * x, row = index >> 3, piece = index & 7;
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

template <KdaGate kGate>
__device__ __forceinline__ void prep_chunk(const KdaPrefillSm90& a, const Chunk& c, Record* record, Smem& s) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const float4 bias4 = __ldg(reinterpret_cast<const float4*>(a.gate.dt_bias + c.head * kDim + 4 * lane));
  const float a_log = __ldg(a.gate.a_log + c.head);

  // Raw gates by asynchronous copies of the warp's own 16 rows. Rows beyond the sequence: no decay.
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
    if (threadIdx.x < kChunk) {
      const bool valid = static_cast<int>(threadIdx.x) < c.n_valid;
      const int64_t at = (c.token + threadIdx.x) * a.n_heads + c.head;
      s.beta[threadIdx.x] = valid ? sigmoid(__bfloat162float(static_cast<const __nv_bfloat16*>(a.beta)[at])) : 0.f;
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
    __syncthreads();

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
    __syncthreads();
    {
      const uint32_t pair = smem_address(s.outer.level16[warp >> 1]);
      gram<2>(acc.level16, pair + (warp & 1) * 16 * kOperandStride, pair + 32 * kOperandStride);
      const uint32_t all = smem_address(s.outer.level32);
      gram<4>(acc.level32, all + (16 * (warp & 1) + 32 * (warp >> 1)) * kOperandStride, all + 64 * kOperandStride);
    }
    __syncthreads();
  }

  scatter_gram(s, acc, attend_diagonal, warp, lane);
  __syncwarp();
  invert_diagonal(s, warp, lane);
  __syncthreads();
  join_inverse(s, warp, lane);
  __syncthreads();
  write_matrices(s, record);
}

template <KdaGate kGate>
__global__ void __launch_bounds__(kThreads, 3) prep_kernel(const __grid_constant__ KdaPrefillSm90 a, Record* records) {
  extern __shared__ __align__(128) char smem_bytes[];
  launch_dependents();
  Chunk c;
  if (locate(a, blockIdx.x, c)) prep_chunk<kGate>(a, c, records + blockIdx.x, *reinterpret_cast<Smem*>(smem_bytes));
}

}  // namespace

cudaError_t launch_prep(const KdaPrefillSm90& a, Record* records, int64_t n_slots, cudaStream_t stream) {
  const auto kernel =
      a.gate.gate == KdaGate::softplus ? prep_kernel<KdaGate::softplus> : prep_kernel<KdaGate::lower_bound>;
  if (const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Smem)))
    return e;
  kernel<<<static_cast<unsigned>(n_slots * a.n_heads), kThreads, sizeof(Smem), stream>>>(a, records);
  return cudaGetLastError();
}

}  // namespace linnet::ops::sm90
