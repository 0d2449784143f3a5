// kda_sm90 prep: which tokens a chunk has, their raw rows to shared memory, the norms of q and k.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_smem.cuh"

namespace linnet::ops::sm90::prep {

template <class T>
constexpr uint64_t kMinusInf4 = std::is_same_v<T, __half> ? 0xfc00fc00fc00fc00u : 0xff80ff80ff80ff80u;

// The chunk of a record slot; false where the slot is unused.
__device__ __forceinline__ bool locate(const KdaPrefillSm90& a, unsigned slot, int head, Chunk& c) {
  const SeqStart start{a.seq_start, a.seq_start_is_64};
  int lo = 0, hi = a.n_sequences - 1;
  while (lo < hi) {
    const int mid = (lo + hi + 1) / 2;
    if (first_slot(start[mid], mid) <= slot) lo = mid;
    else hi = mid - 1;
  }
  const int64_t begin = start[lo];
  c.sequence = lo;
  c.head = head;
  c.token = begin + (static_cast<int64_t>(slot) - first_slot(begin, lo)) * kChunk;
  const int64_t left = start[lo + 1] - c.token;
  c.n_valid = left < kChunk ? static_cast<int>(left) : kChunk;
  return left > 0;
}

// The copies of one tensor's 8 rows, two at a time. to: the place of the lane's piece of its first row, row: that in the tensor, step: two tokens in bytes.
__device__ __forceinline__ void copy_rows(uint32_t to, const char* row, uint64_t step) {
#pragma unroll
  for (int i = 0; i < 4; i++) copy16((to ^ (i << 5)) + i * 256, row + step * i, 16);
}
// Zeros from token `left` on.
__device__ __forceinline__ void copy_some_rows(uint32_t to, const char* row, uint64_t step, int left,
                                               const void* anywhere) {
#pragma unroll 1
  for (int i = 0; i < 4; i++) {
    const bool valid = 2 * i < left;
    copy16((to ^ (i << 5)) + i * 256, valid ? row + step * i : anywhere, valid ? 16 : 0);
  }
}

// Starts the copies of a chunk's raw rows to shared memory, z last: compute waits for q and k alone, at first. Each warp copies its own 8 tokens. With
// options z may have rows of its own stride, or none here, q and k fewer heads, and heads channels that are none: zeros.
template <class B>
__device__ __forceinline__ void load(const KdaPrefillSm90& a, const Chunk c, const Smem& s, int thread) {
  const int here = forget(thread), warp = here >> 5, lane = here & 31, first = lane >> 4, piece = lane & 15;
  const int head_dim = B::kPlain ? kDim : a.head_dim;
  const int64_t token = c.token + kBlock * warp + first;
  const uint32_t to = smem_address(s.rows) + warp * kTileBytes + (piece >> 3) * kPanelBytes + first * 128 +
                      (((piece & 7) ^ first) << 4);
  const int64_t stride = B::kPlain ? a.token_stride : a.qk_stride, z_stride = B::kPlain ? a.token_stride : a.z_stride;
  const int64_t at =
      (token * stride + (B::kPlain ? c.head : c.head / (a.n_heads / a.n_qk_heads)) * head_dim + piece * 8) * 2;
  const int64_t z_at = (token * z_stride + c.head * head_dim + piece * 8) * 2;
  const char* const q = static_cast<const char*>(a.q) + at;
  const char* const k = static_cast<const char*>(a.k) + at;
  const char* const z = static_cast<const char*>(a.z) + z_at;
  const uint32_t step = static_cast<uint32_t>(stride * 4), z_step = static_cast<uint32_t>(z_stride * 4);  // two tokens
  if (c.n_valid == kChunk && (B::kPlain || head_dim == kDim)) {
    copy_rows(to + kRawQ * kTensorBytes, q, step);
    copy_rows(to + kRawK * kTensorBytes, k, step);
    commit_copies();
    if constexpr (B::kRawRows) copy_rows(to + kRawZ * kTensorBytes, z, z_step);
  } else {
    const int left = piece * 8 < head_dim ? c.n_valid - kBlock * warp - first : 0;
    copy_some_rows(to + kRawQ * kTensorBytes, q, step, left, a.q);
    copy_some_rows(to + kRawK * kTensorBytes, k, step, left, a.k);
    commit_copies();
    if constexpr (B::kRawRows) copy_some_rows(to + kRawZ * kTensorBytes, z, z_step, left, a.z);
  }
  if constexpr (B::kGate == KdaGate::log_decay) {  // no room for f32: compute reads them itself, from the L2
    const int row = kBlock * warp + (lane >> 2), line = lane & 3;
    if (row < c.n_valid && line * 32 < head_dim)
      prefetch_line(static_cast<const float*>(a.z) + (c.token + row) * z_stride + c.head * head_dim + line * 32);
  }
  commit_copies();
}
// Waits for the warp's rows: of q and k (1), of z (0).
template <int kPending>
__device__ __forceinline__ void wait_for_load() {
  wait_copies<kPending>();
  __syncwarp();
}
// Beyond the sequence: no decay.
template <class T>
__device__ __forceinline__ void clear_beyond(const Chunk& c, Smem& s, int warp, int lane) {
  const int n_mine = c.n_valid - kBlock * warp;
#pragma unroll 1
  for (int i = n_mine < 0 ? 0 : n_mine; i < kBlock; i++)
    *reinterpret_cast<uint64_t*>(s.rows + warp * kTileBytes + (lane >> 4) * kPanelBytes + (lane & 15) * 8 + i * 128) =
        kMinusInf4<T>;
  __syncwarp();
}

// Sums of squares and q . k are diagonals of products of the raw rows: to s.norm, and of the normalised rows to s.diagonal.
template <class B>
__device__ __forceinline__ void norms(Smem& s, [[maybe_unused]] bool normalize, int warp, int lane) {
  // 8 channels of a k16 step are one instruction: with all 16, operands would be copied to make neighbours of them.
  const int row = lane & 7, tensor = kRawQ + (lane >> 3 & 1);
  const uint32_t rows =
      smem_address(s.rows) + warp * kTileBytes + tensor * kTensorBytes + row * 128 + (((lane >> 4) ^ row) << 4);
  float both[2][4] = {}, q[2][4] = {};  // [q k^T; k k^T], q q^T: two sums, of half the channels each
#pragma unroll
  for (int kk = 0; kk < 8; kk++) {
    uint32_t x[4];  // q, k of 8 channels; of the next 8
    ldmatrix(x, (rows ^ ((kk & 3) << 5)) + (kk >> 2) * kPanelBytes);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      mma_k8<typename B::T>(both[i], x[2 * i], x[2 * i + 1], x[2 * i + 1]);
      mma_k8<typename B::T>(q[i], x[2 * i], x[2 * i + 1], x[2 * i]);
    }
  }
  const auto inverse = [](float x) {
    float y;
    y = rsqrt_fast(x + kL2Eps);
    return y;
  };
  const bool odd = lane & 4;
  const float qq = odd ? q[0][1] + q[1][1] : q[0][0] + q[1][0];
  const float qk = odd ? both[0][1] + both[1][1] : both[0][0] + both[1][0];
  const float kk = odd ? both[0][3] + both[1][3] : both[0][2] + both[1][2];
  float2 n = make_float2(inverse(qq), inverse(kk));
  if constexpr (!B::kPlain) {
    if (!normalize) n = make_float2(1.f, 1.f);
  }
  if ((lane & 3) == lane >> 3) {  // the lane holds entries (g, g)
    s.norm[warp][lane >> 2] = n;
    s.diagonal[warp][lane >> 2] = qk * n.x * n.y;
  }
  __syncwarp();
}

// The token's normalised q and k in token view, f16: register 4 j + w has channels 8 p + 2 w, + 1 of piece p = t + 4 j.
struct Rows {
  uint32_t k[4][4], q[4][4];
};
template <class T>
__device__ __forceinline__ void read_rows(Rows& x, const Smem& s, int warp, int lane) {
  const uint32_t rows = smem_address(s.rows) + warp * kTileBytes + in_token_row(lane);
  const float2 norm = s.norm[warp][token_of(lane)];
#pragma unroll
  for (int j = 0; j < 4; j++) {
    uint32_t q[4], k[4];
    load_shared(q, piece_of(rows, j) + kRawQ * kTensorBytes);
    load_shared(k, piece_of(rows, j) + kRawK * kTensorBytes);
#pragma unroll
    for (int w = 0; w < 4; w++) {
      const float2 qf = unpack<T>(q[w]), kf = unpack<T>(k[w]);
      x.q[j][w] = pack_half(qf.x * norm.x, qf.y * norm.x);
      x.k[j][w] = pack_half(kf.x * norm.y, kf.y * norm.y);
    }
  }
  __syncwarp();
}

}  // namespace linnet::ops::sm90::prep
