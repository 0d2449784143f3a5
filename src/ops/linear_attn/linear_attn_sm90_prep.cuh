// kda_sm90 prep: everything of a chunk that does not need the state: one Record.
//
// Threads a workgroup of 8 warps per chunk and head; warp w owns block w, tokens 8w..8w+7 of the chunk. Decays are made with a lane on 4 channels
//         of all 8 tokens, operands with a lane on a quarter of one token, as matrix instructions want them in registers.
// Decay   G never appears: all factors are products of per-token decays in a binary tree over a block's tokens, or decays over whole blocks. A
//         node of 2m tokens joins an earlier and a later half; the pairs (later i, earlier j) need e^(G_i - G_j) = prefix(i in its half) *
//         suffix(j in its half), two numbers in [0, 1] for any gate, so nothing overflows, nothing is bounded, and row i sees no token after
//         it, in bits. Prefixes and suffixes (levels m = 1, 2, 4 and the block) are f32 products rounded to f16, of the block's those that
//         reach into its other half products of two such; pairs of blocks take a third factor, the decay over the blocks between, the
//         exponential of f32 sums of logs.
// Gram    per level one product [K; Q] x K of the block's tokens, in registers, which holds the level's entries; per pair of blocks one, f16
//         operands (|k| <= 1), f32 sums. Operands of blocks lie in shared memory once; the third factor multiplies the earlier one's registers.
// Norms   diagonals of products of the raw rows.
// Inverse T = (I + L)^-1 diag(beta): 8x8 blocks by substitution in f32, joined with f16 products: pairs, then rows of 16 each for itself.
// Meets   3 times a chunk: over the decays of blocks, where a warp tells its own and goes on with its block before it waits for the others'; operands of
//         blocks and decays between them; all of A and the diagonal of T. And nobody puts decays where T of the chunk before is still read.
// Smem    76,800 B: 49,152 of rows (raw, then factors, then operands), 9,728 of decays over runs of blocks, the rest A, T, entries inside blocks,
//         logs, norms and beta: 3 workgroups per SM.
// Traffic reads 49,280 B, writes 66,048 B.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_inverse.cuh"

namespace linnet::ops::sm90::prep {

// The log2 decay of one token by a gate of its head; at: of its number among [N, H].
template <class T>
__device__ __forceinline__ float head_log2_decay(const KdaPrefillSm90& a, int64_t at, int head) {
  if (a.gate.gate == KdaGate::head_log_decay) return __ldg(static_cast<const float*>(a.z) + at) * kLog2e;
  return sm90::log2_decay<KdaGate::softplus>(static_cast<float>(static_cast<const T*>(a.z)[at]),
                                             __ldg(a.gate.dt_bias + head) * kLog2e,
                                             exp2_fast(__ldg(a.gate.a_log + head) * kLog2e), 0.f);
}

// The chunk's write strengths to s.beta.
template <class B>
__device__ __forceinline__ void put_beta(const KdaPrefillSm90& a, const Chunk& c, Smem& s, int warp, int lane) {
  const int token = kBlock * warp + lane;
  if (lane >= kBlock) return;
  float beta = 0.f;
  if (token < c.n_valid) {
    const int64_t at = (c.token + token) * a.n_heads + c.head;
    if (!B::kPlain && a.beta_value) beta = __ldg(a.beta_value + at);
    else
      beta =
          reciprocal_fast(1.f + exp2_fast(-kLog2e * static_cast<float>(static_cast<const typename B::T*>(a.beta)[at])));
  }
  s.beta[token] = beta;
}

// The block's decays: rows of factors, and the total to log2_total. The places of q and k are free.
template <class B>
__device__ __forceinline__ void put_decays(const KdaPrefillSm90& a, const Chunk& c, Smem& s, int warp, int lane) {
  using T = typename B::T;
  float sum_log2[4] = {};
  const int head_dim = B::kPlain ? kDim : a.head_dim, channel = c.head * head_dim + 4 * lane;
  const bool is_channel = 4 * lane < head_dim;
  if constexpr (B::kRawRows) {
    float4 dt_bias = {};
    if (is_channel) dt_bias = __ldg(reinterpret_cast<const float4*>(a.gate.dt_bias + channel));
    const float a_log = __ldg(a.gate.a_log + c.head);
    wait_for_load<0>();
    clear_beyond<T>(c, s, warp, lane);
    RawDecays<B::kGate, T> given{make_gate<B::kGate>(dt_bias, a_log, a.gate.lower_bound), channel_rows(s, warp, lane)};
    make_factors(sum_log2, given, s, warp, lane);
  } else if constexpr (B::kGate == KdaGate::log_decay) {
    GivenDecays given;
    given.rows = static_cast<const float*>(a.z) + (c.token + kBlock * warp) * a.z_stride + channel;
    given.stride = a.z_stride;
    given.left = is_channel ? c.n_valid - kBlock * warp : 0;
    make_factors(sum_log2, given, s, warp, lane);
  } else {
    const int token = kBlock * warp + lane;  // of lanes 0 to 7
    const bool is_token = lane < kBlock && token < c.n_valid;
    HeadDecays given{is_token ? head_log2_decay<T>(a, (c.token + token) * a.n_heads + c.head, c.head) : 0.f};
    make_factors(sum_log2, given, s, warp, lane);
  }
  *reinterpret_cast<float4*>(log2_total(s, warp) + 4 * lane) =
      make_float4(sum_log2[0], sum_log2[1], sum_log2[2], sum_log2[3]);
}

// Everything inside the warp's block, and the record's rows.
template <class B, class WaitBefore>
__device__ __forceinline__ void work_on_block(const KdaPrefillSm90& a, const Chunk& c, Record* record, Smem& s,
                                              int warp, int lane, int phase, WaitBefore wait_before) {
  put_beta<B>(a, c, s, warp, lane);
  wait_for_load<1>();
  norms<B>(s, B::kPlain || a.normalize_qk, warp, lane);
  Rows x;
  read_rows<typename B::T>(x, s, warp, lane);
  wait_before();
  put_decays<B>(a, c, s, warp, lane);
  barrier_arrive_warp(smem_address(&s.decays));
  uint32_t factors[3];
  const uint16_t(&places)[4] = kFactorPlaces.of[warp][token_of(lane)];
#pragma unroll
  for (int i = 0; i < 3; i++) factors[i] = smem_address(&s) + (lane & 3) * 16 + places[i] * 16;
  Levels levels = {};
  multiply_levels(levels, x, factors);
  scatter_levels(s, levels, warp, lane);
  barrier_wait(smem_address(&s.decays), phase);
  make_ranges(s, warp, lane);
  make_own_ranges(record, s, warp, lane);
  finish_rows(x, range_piece(s, before(warp), lane), range_piece(s, behind(warp), lane), record, s, warp, lane);
}

// The record of a chunk whose loads have been started, by a workgroup of 8 whole warps; thread counts from 0 in it, barrier is a hardware
// barrier of its own, phase alternates from chunk to chunk. Each thread calls wait_before() once, which returns when all warps are done with the
// chunk before in the same shared memory, and rows_free(), when the next chunk's load may start. On return it has written its part of the record.
template <class B, class WaitBefore, class RowsFree>
__device__ __forceinline__ void compute(const KdaPrefillSm90& a, const Chunk& c, Record* record, Smem& s, int thread,
                                        int barrier, int phase, WaitBefore wait_before, RowsFree rows_free) {
  // Through shuffles: the compiler then knows that the warp is one number, and does not compute either again.
  const int warp = __shfl_sync(~0u, thread >> 5, 0), lane = __shfl_sync(~0u, thread & 31, thread & 31);
  work_on_block<B>(a, c, record, s, warp, lane, phase, wait_before);
  workgroup_sync(barrier);  // operands of all blocks
  multiply_blocks(record, s, warp, lane);
  if (warp & 1) {
    __syncwarp();
    invert_pair(record, s, pair_of(warp), lane);
  } else if (warp >= 4) {
    clear_upper(warp == 4 ? record->solve : record->attend, lane);
  }
  workgroup_sync(barrier);  // K K^T, diagonal blocks of T; the rows are free
  rows_free();
  if (warp < 3) join_row(record, s, 3 - warp, lane);
}

constexpr int kWorkgroupsPerSm = 3;
constexpr int kApart = 4000;        // cycles
constexpr int kWavesApart = 2;      // at least, else the wait at the start is not won back
constexpr int kMostSlotsY = 32768;  // of a grid, then z counts

// prep's own kernel: one workgroup per (record slot, head): x head, y slot, z more slots. Workgroups that start together load together and
// then compute together, and wait the longer for their rows: the second and the third of each of n_sms SMs start later, when n_sms is not 0.
template <class B>
__device__ __forceinline__ void prepare_one(const KdaPrefillSm90& a, Record* records, unsigned n_sms, Smem& s) {
  launch_dependents();
  const unsigned slot = blockIdx.z * kMostSlotsY + blockIdx.y, item = slot * a.n_heads + blockIdx.x;
  if (item < kWorkgroupsPerSm * n_sms) {
    const long long start = clock64(), wait = item / n_sms * kApart;
    while (clock64() - start < wait) __nanosleep(200);
  }
  Chunk c;
  if (!locate(a, slot, static_cast<int>(blockIdx.x), c)) return;
  const int thread = static_cast<int>(threadIdx.x);
  load<B>(a, c, s, thread);
  if (thread == 0) init_barriers(s);
  __syncthreads();
  compute<B>(
      a, c, records + item, s, thread, 0, 0, [] {}, [] {});
}

}  // namespace linnet::ops::sm90::prep
