// kda_sm90 prep: which tokens a chunk has, their raw rows to shared memory, the norms of q and k.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_smem.cuh"

namespace linnet::ops::sm90::prep {

enum Tensor { kRawZ, kRawQ, kRawK };
// A warp's raw rows: 12 per quad of tokens, which the quad's operands of levels 1 and 2 take over.
__host__ __device__ constexpr int raw_row(int tensor, int token) {
  return 12 * (token >> 2) + 4 * tensor + (token & 3);
}
template <class T>
constexpr uint64_t kMinusInf4 = std::is_same_v<T, __half> ? 0xfc00fc00fc00fc00u : 0xff80ff80ff80ff80u;

// The chunk of record number item (slot * n_heads + head); false where the slot is unused.
__device__ __forceinline__ bool locate(const KdaPrefillSm90& a, unsigned item, Chunk& c) {
  const unsigned n_heads = a.n_heads, slot = item / n_heads;
  const SeqStart start{a.seq_start, a.seq_start_is_64};
  int lo = 0, hi = a.n_sequences - 1;
  while (lo < hi) {
    const int mid = (lo + hi + 1) / 2;
    if (first_slot(start[mid], mid) <= slot) lo = mid;
    else hi = mid - 1;
  }
  const int64_t begin = start[lo];
  c.sequence = lo;
  c.head = static_cast<int>(item % n_heads);
  c.token = begin + (static_cast<int64_t>(slot) - first_slot(begin, lo)) * kChunk;
  const int64_t left = start[lo + 1] - c.token;
  c.n_valid = left < kChunk ? static_cast<int>(left) : kChunk;
  return left > 0;
}

// Starts the copies of a chunk's raw rows to shared memory, z first: compute waits for it alone, at first. Each warp copies its own 16 tokens.
__device__ __forceinline__ void load_plain(const KdaPrefillSm90& a, const Chunk& c, Smem& s, int warp, int lane) {
  const int first = lane >> 4, piece = lane & 15;
  const int left = c.n_valid - 16 * warp - first;
  const int64_t origin = ((c.token + 16 * warp + first) * a.token_stride + c.head * kDim + piece * 8) * 2;
  const auto step = static_cast<uint32_t>(a.token_stride * 4);  // two tokens
  const char* const from[3] = {static_cast<const char*>(a.z) + origin, static_cast<const char*>(a.q) + origin,
                               static_cast<const char*>(a.k) + origin};
  const uint32_t to = smem_address(s.rows[warp]) + first * kRowStride + piece * 16;
  const auto copy = [&](int tensor) {
    if (c.n_valid == kChunk) {
#pragma unroll
      for (int i = 0; i < 8; i++)
        copy16(to + row_offset(raw_row(tensor, 2 * i)), from[tensor] + static_cast<uint64_t>(step) * i, 16);
    } else {
#pragma unroll 1
      for (int i = 0; i < 16; i += 2) {  // zeros beyond the sequence
        const char* const row = from[tensor] + static_cast<uint64_t>(step) * (i / 2);
        copy16(to + row_offset(raw_row(tensor, i)), i < left ? row : from[0] - origin, i < left ? 16 : 0);
      }
    }
  };
  copy(kRawZ);
  commit_copies();
  copy(kRawQ);
  copy(kRawK);
  commit_copies();
}
// The copies of one tensor: row is the lane's piece of the lane's first token, step two tokens in bytes.
__device__ __forceinline__ void copy_rows(const Chunk& c, uint32_t to, int tensor, const char* row, uint32_t step,
                                          int left, const void* anywhere) {
  if (c.n_valid == kChunk) {
#pragma unroll
    for (int i = 0; i < 8; i++)
      copy16(to + row_offset(raw_row(tensor, 2 * i)), row + static_cast<uint64_t>(step) * i, 16);
  } else {
#pragma unroll 1
    for (int i = 0; i < 16; i += 2) {  // zeros beyond the sequence
      const bool valid = i < left;
      copy16(to + row_offset(raw_row(tensor, i)), valid ? row + static_cast<uint64_t>(step) * (i / 2) : anywhere,
             valid ? 16 : 0);
    }
  }
}
// With options z may have rows of its own stride, or none here, and q and k fewer heads.
template <class B>
__device__ __forceinline__ void load_with_options(const KdaPrefillSm90& a, const Chunk& c, Smem& s, int warp,
                                                  int lane) {
  const int first = lane >> 4, piece = lane & 15;
  const int left = c.n_valid - 16 * warp - first;
  const int64_t token = c.token + 16 * warp + first;
  const uint32_t to = smem_address(s.rows[warp]) + first * kRowStride + piece * 16;
  const auto copy = [&](int tensor, const void* from, int64_t stride, int head) {
    const char* const row = static_cast<const char*>(from) + (token * stride + head * kDim + piece * 8) * 2;
    copy_rows(c, to, tensor, row, static_cast<uint32_t>(stride * 4), left, from);
  };
  if constexpr (B::kRawRows) {
    copy(kRawZ, a.z, a.z_stride, c.head);
  } else if constexpr (B::kGate == KdaGate::log_decay) {  // no room for f32: compute reads them itself, from the L2
    const int line = lane & 3;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int row = 16 * warp + 8 * i + (lane >> 2);
      if (row < c.n_valid)
        prefetch_line(static_cast<const float*>(a.z) + (c.token + row) * a.z_stride + c.head * kDim + line * 32);
    }
  }
  commit_copies();
  const int qk_head = c.head / (a.n_heads / a.n_qk_heads);
  copy(kRawQ, a.q, a.qk_stride, qk_head);
  copy(kRawK, a.k, a.qk_stride, qk_head);
  commit_copies();
}

template <class B>
__device__ __forceinline__ void load(const KdaPrefillSm90& a, const Chunk& c, Smem& s, int thread) {
  if constexpr (B::kPlain) load_plain(a, c, s, thread >> 5, thread & 31);
  else load_with_options<B>(a, c, s, thread >> 5, thread & 31);
}
// Waits for the warp's rows: of z (1), of q and k (0).
template <int kPending>
__device__ __forceinline__ void wait_for_load() {
  wait_copies<kPending>();
  __syncwarp();
}
// Beyond the sequence: no decay.
template <class T>
__device__ __forceinline__ void clear_beyond(const Chunk& c, Smem& s, int warp, int lane) {
  const int n_mine = c.n_valid - 16 * warp;
#pragma unroll 1
  for (int i = n_mine < 0 ? 0 : n_mine; i < 16; i++)
    *reinterpret_cast<uint64_t*>(s.rows[warp] + row_offset(raw_row(kRawZ, i)) + lane * 8) = kMinusInf4<T>;
  __syncwarp();
}

// Sums of squares and q . k are diagonals of products of the raw rows: to s.norm, and q . k of the normalised rows to the diagonal of
// the warp's attend block, whose other entries become 0.
template <class B>
__device__ __forceinline__ void norms(Smem& s, [[maybe_unused]] bool normalize, int warp, int lane) {
  // 8 channels of a k16 step are one instruction: with all 16, operands would be copied to make neighbours of them.
  const int tensor = lane & 8 ? kRawK : kRawQ;
  const uint32_t rows =
      smem_address(s.rows[warp]) + row_offset(raw_row(kRawZ, lane & 7) + 4 * tensor) + (lane >> 4) * 16;
  constexpr uint32_t kHigh = 24 * kRowStride;                      // tokens 8 to 15
  float low[4] = {}, high[4] = {}, q_low[4] = {}, q_high[4] = {};  // [q k^T; k k^T], q q^T of 8 tokens
#pragma unroll
  for (int kk = 0; kk < 8; kk++) {
    uint32_t l[4], h[4];  // q, k of 8 channels; of the next 8
    ldmatrix(l, rows + kk * 32);
    ldmatrix(h, rows + kHigh + kk * 32);
#pragma unroll
    for (int x = 0; x < 4; x += 2) {
      mma_k8<typename B::T>(low, l[x], l[x + 1], l[x + 1]);
      mma_k8<typename B::T>(high, h[x], h[x + 1], h[x + 1]);
      mma_k8<typename B::T>(q_low, l[x], l[x + 1], l[x]);
      mma_k8<typename B::T>(q_high, h[x], h[x + 1], h[x]);
    }
  }
  char* const attend = s.attend[warp];
  *reinterpret_cast<uint4*>(attend + (lane >> 1) * kAttendStride + (lane & 1) * 16) = make_uint4(0, 0, 0, 0);
  __syncwarp();
  const int g = lane >> 2;
  if ((lane & 3) == g >> 1) {  // the lane holds entries (g, g)
    const auto inverse = [](float x) { return rsqrt_fast(x + kL2Eps); };
    const int x = g & 1;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float(&d)[4] = half ? high : low;
      const float qq = half ? (x ? q_high[1] : q_high[0]) : (x ? q_low[1] : q_low[0]);
      const float qk = x ? d[1] : d[0], kk = x ? d[3] : d[2];
      float2 n = make_float2(inverse(qq), inverse(kk));
      if constexpr (!B::kPlain) {
        if (!normalize) n = make_float2(1.f, 1.f);
      }
      const int token = g + 8 * half;
      s.norm[warp][token] = n;
      *reinterpret_cast<__half*>(attend + token * (kAttendStride + 2)) = __float2half_rn(qk * n.x * n.y);
    }
  }
  __syncwarp();
}

}  // namespace linnet::ops::sm90::prep
