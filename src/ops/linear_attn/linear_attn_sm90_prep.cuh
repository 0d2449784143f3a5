// kda_sm90 prep: everything of a chunk that does not need the state: one Record.
//
// Threads a workgroup of 4 warps per chunk and head; warp w owns tokens 16w..16w+15 of the chunk, a lane channels 4l..4l+3 of them.
// Decay   G never appears: all factors are products of per-token decays in a binary tree over tokens. A node of 2m tokens joins an
//         earlier and a later half; the pairs (later i, earlier j) need e^(G_i - G_j) = prefix(i in its half) * suffix(j in its half),
//         two numbers in [0, 1] for any gate, so nothing overflows, nothing is bounded, and row i sees no token after it, in bits.
//         K and Q are held with their prefixes, K with its suffix; a level multiplies them by the decay over the other half, f32 products
//         of decays rounded once. Levels m = 1, 2, 4, 8 inside a warp, 16 and 32 across warps; the whole chunk gives the record.
// Gram    per level one product [K rows; Q rows] (later) x K rows (earlier), f16 operands (|k| <= 1), f32 sums.
// Norms   diagonals of products of the raw rows.
// Inverse T = (I + L)^-1 diag(beta): 8x8 blocks by substitution in f32, joined three times with f16 products, T21 = -T22 A21 T11.
// Smem    72,448 B: 52,224 of rows (raw, then operands), 15,360 of matrices, 4,864 of decays, norms and beta: 3 workgroups per SM.
// Traffic reads 49,280 B, writes 66,048 B.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_inverse.cuh"
#include "ops/linear_attn/linear_attn_sm90_prep_tree.cuh"

namespace linnet::ops::sm90::prep {

__device__ __forceinline__ float4 read_total(const float (&of)[4][kDim], int block, int lane) {
  return *reinterpret_cast<const float4*>(&of[block][4 * lane]);
}

// Nodes of 32 tokens to the whole chunk, and the record's rows and decay.
__device__ __forceinline__ void write_rows(Operands& x, Record* r, const Smem& s, int warp, int lane) {
  const int other_pair = (warp & 2) ^ 2;
  const float4 t0 = read_total(s.total, other_pair, lane), t1 = read_total(s.total, other_pair + 1, lane);
  const Half4 other = pack_half4(t0.x * t1.x, t0.y * t1.y, t0.z * t1.z, t0.w * t1.w);
  if (warp & 2) {
    scale_rows(x.k_in, other);
    scale_rows(x.q_in, other);
  } else {
    scale_rows(x.k_out, other);
  }
  char* const panel = r->k_in + 16 * warp * 128 + (lane & 3) * 4;
  const auto write = [](char* to, const Half4& h) {
    *reinterpret_cast<uint32_t*>(to) = h.lo;
    *reinterpret_cast<uint32_t*>(to + kPanelBytes) = h.hi;
  };
#pragma unroll
  for (int row = 0; row < 8; row++) {
    char* const to = panel + row * 128 + (((lane >> 2) ^ row) << 4);
#pragma unroll
    for (int i = row; i < 16; i += 8) {
      char* const at_row = to + (i - row) * 128;
      write(at_row, x.k_in[i]);
      write(at_row + offsetof(Record, q_in), x.q_in[i]);
      write(at_row + offsetof(Record, k_out), x.k_out[i]);
    }
  }
  if (warp == 0) {
    const float4 t2 = read_total(s.total_log2, 0, lane), t3 = read_total(s.total_log2, 1, lane),
                 t4 = read_total(s.total_log2, 2, lane), t5 = read_total(s.total_log2, 3, lane);
    const float decay[4] = {exp2_fast(t2.x + t3.x + t4.x + t5.x), exp2_fast(t2.y + t3.y + t4.y + t5.y),
                            exp2_fast(t2.z + t3.z + t4.z + t5.z), exp2_fast(t2.w + t3.w + t4.w + t5.w)};
    *reinterpret_cast<float2*>(&r->decay[2 * lane]) = make_float2(decay[0], decay[1]);
    *reinterpret_cast<float2*>(&r->decay[64 + 2 * lane]) = make_float2(decay[2], decay[3]);
  }
}

// From the chunk's gates, write strengths and raw rows to nodes of 16 tokens.
template <class B>
__device__ __forceinline__ void climb_plain(Operands& x, const KdaPrefillSm90& a, const Chunk& c, Smem& s, int thread) {
  const int here = forget(thread), warp = here >> 5, lane = here & 31;
  const float4 dt_bias = __ldg(reinterpret_cast<const float4*>(a.gate.dt_bias + c.head * kDim + 4 * lane));
  const float a_log = __ldg(a.gate.a_log + c.head);
  const int token = 16 * warp + lane;  // of lanes 0 to 15
  const bool has_beta = lane < 16 && token < c.n_valid;
  __nv_bfloat16 beta_logit = {};
  if (has_beta) beta_logit = static_cast<const __nv_bfloat16*>(a.beta)[(c.token + token) * a.n_heads + c.head];
  wait_for_load<1>();
  clear_beyond<typename B::T>(c, s, warp, lane);
  if (lane < 16) s.beta[token] = has_beta ? sigmoid(__bfloat162float(beta_logit)) : 0.f;
  climb<B>(x, make_gate<B::kGate>(dt_bias, a_log, a.gate.lower_bound), true, s, warp, lane);
}

// The log2 decay of one token by a gate of its head; at: of its number among [N, H].
template <class T>
__device__ __forceinline__ float head_log2_decay(const KdaPrefillSm90& a, int64_t at, int head) {
  if (a.gate.gate == KdaGate::head_log_decay) return __ldg(static_cast<const float*>(a.z) + at) * kLog2e;
  return sm90::log2_decay<KdaGate::softplus>(static_cast<float>(static_cast<const T*>(a.z)[at]),
                                             __ldg(a.gate.dt_bias + head) * kLog2e,
                                             exp2_fast(__ldg(a.gate.a_log + head) * kLog2e), 0.f);
}

template <class B>
__device__ __forceinline__ void climb_with_options(Operands& x, const KdaPrefillSm90& a, const Chunk& c, Smem& s,
                                                   int thread) {
  using T = typename B::T;
  const int here = forget(thread), warp = here >> 5, lane = here & 31;
  const int token = 16 * warp + lane;  // of lanes 0 to 15
  const bool is_token = lane < 16 && token < c.n_valid;
  const int64_t at = (c.token + token) * a.n_heads + c.head;
  float beta = 0.f;
  if (is_token) beta = a.beta_value ? __ldg(a.beta_value + at) : static_cast<float>(static_cast<const T*>(a.beta)[at]);
  const auto put_beta = [&] {
    if (lane < 16) s.beta[token] = is_token && !a.beta_value ? sigmoid(beta) : beta;
  };
  if constexpr (B::kRawRows) {
    const float4 dt_bias = __ldg(reinterpret_cast<const float4*>(a.gate.dt_bias + c.head * kDim + 4 * lane));
    const float a_log = __ldg(a.gate.a_log + c.head);
    wait_for_load<1>();
    clear_beyond<T>(c, s, warp, lane);
    put_beta();
    climb<B>(x, make_gate<B::kGate>(dt_bias, a_log, a.gate.lower_bound), a.normalize_qk, s, warp, lane);
  } else {
    GivenDecays<B::kGate> given;
    if constexpr (B::kGate == KdaGate::log_decay) {
      given.rows = static_cast<const float*>(a.z) + (c.token + 16 * warp) * a.z_stride + c.head * kDim + 4 * lane;
      given.stride = a.z_stride;
      given.left = c.n_valid - 16 * warp;
    } else {
      given.mine = is_token ? head_log2_decay<T>(a, at, c.head) : 0.f;
    }
    put_beta();
    climb<B>(x, given, a.normalize_qk, s, warp, lane);
  }
}

// The record of a chunk whose load has been started, by a workgroup of 4 whole warps; thread counts from 0 in it, barrier is a hardware
// barrier of its own. Each thread calls rows_free() once, when the next chunk's load may start. On return it has written its part of the
// record; the workgroup meets at its barrier (workgroup_sync) before anyone computes again in the same shared memory.
template <class B, class RowsFree>
__device__ __forceinline__ void compute(const KdaPrefillSm90& a, const Chunk& c, Record* record, Smem& s, int thread,
                                        int barrier, RowsFree rows_free) {
  Operands x;
  if constexpr (B::kPlain) climb_plain<B>(x, a, c, s, thread);
  else climb_with_options<B>(x, a, c, s, thread);
  {
    const int here = forget(thread), warp = here >> 5, lane = here & 31;
    store_level16(x, s, warp, lane);
    workgroup_sync(barrier);  // totals
    store_level32(x, read_total(s.total, warp ^ 1, lane), s, warp, lane);
    write_rows(x, record, s, warp, lane);
    workgroup_sync(barrier);  // the outer levels' operands
  }
  const int here = forget(thread), warp = here >> 5, lane = here & 31;
  Grams grams = {};
  gram_outer(grams, s, warp, lane);
  scatter(grams, record, s, warp, lane);
  invert_diagonal(record, s, warp, lane);
  workgroup_sync(barrier);  // diagonal blocks of T, level 16 of K K^T; the rows are free
  rows_free();
  if (warp < 2) join16(record, s, warp, lane);
  else clear_upper(warp == 2 ? record->solve : record->attend, lane);
  workgroup_sync(barrier);  // blocks of 32 of T
  join32(record, s, warp, lane);
}

constexpr int kWorkgroupsPerSm = 3;
constexpr int kApart = 4000;    // cycles
constexpr int kWavesApart = 2;  // at least, else the wait at the start is not won back

// prep's own kernel: one workgroup per (record slot, head). Workgroups that start together load together and then compute together, and wait
// the longer for their rows: the second and the third of each of n_sms SMs start later, when n_sms is not 0.
template <class B>
__device__ __forceinline__ void prepare_one(const KdaPrefillSm90& a, Record* records, unsigned n_sms, Smem& s) {
  launch_dependents();
  if (blockIdx.x < kWorkgroupsPerSm * n_sms) {
    const long long start = clock64(), wait = blockIdx.x / n_sms * kApart;
    while (clock64() - start < wait) __nanosleep(200);
  }
  Chunk c;
  if (!locate(a, blockIdx.x, c)) return;
  const int thread = static_cast<int>(threadIdx.x);
  load<B>(a, c, s, thread);
  compute<B>(a, c, records + blockIdx.x, s, thread, 0, [] {});
}

}  // namespace linnet::ops::sm90::prep
