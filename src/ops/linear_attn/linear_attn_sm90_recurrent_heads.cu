// kda_sm90 recurrent: the recurrence token after token, whole heads of 64 or 128 channels. Memory-bound at one token, a serial chain beyond.
//
// Grid    a CTA per (sequence, head), thread = channel = value column for a token's vectors; three an SM (heads of 64: eight of half the size).
//         A warp owns 32 rows of the state (16 KB at 128 in f32, contiguous): key channels, or value columns where values come first.
// Tile    each warp asks for its rows by one prefetch into the L2 and one bulk copy at the start; the first token is prepared while they are
//         under way. Then the state is in registers, f32, 128 values a thread (64), over all tokens, and goes back from there.
//         Keys first: a lane has 4 value columns, sums over key channels go through shared memory, two barriers a token. Values first: a lane
//         has 8 rows of 16 (8) key channels, sums over 8 lanes by shuffles, one barrier a token.
// Chain   raw tokens come by asynchronous copies, four on their way, into the memory that the state has left; the next one's decay and norms
//         are computed between the products and the update of this one. o = S'^T q + u (k . q) with S' the decayed state, so that both
//         products read S' once.
// Smem    74 KB at 128 in f32. 1 mbarrier a warp.
// recurrent_heads_kernel: registers 168, spills 900, stack 176.
//         By instance: 128 channels f32 keys first none, values first 104; bf16 484 and 900; 64 channels f32 keys first 96, the others none.
// Numeric all f32 (exp and log1p, not their fast forms); bf16 states are rounded once, where they are written. Bitwise deterministic, whatever the
//         batch and however many tokens a call has (f32 states).
// Start   up to two CTAs an SM (four) the grid starts beside the one before it and waits for its end; states that are not addressed by slots
//         are prefetched into the L2 before.
// Traffic per head: the state in and out, 8 D^2 B (f32); a token 10 D + 2 B in bf16.
// Floor   one token, D=128, f32: B=32, H=32 135.5 MB / 4.23 TB/s = 32.0 us, B=256 256 us, B=1 1.0 us.
// Expected, not run on a GPU: 39, 264, 3.7 us, as the decode kernel without settled pools (40.2, 273.7, 3.2) less its windows and weights.
#include "ops/linear_attn/linear_attn_sm90_recurrent.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int kRows =
    32;  // of the state, contiguous, that a warp owns: key channels, or value columns where values come first

// How a CTA divides a head of kD key channels and kD value columns, whose states are T in memory. Thread = channel = value column for the
// token's vectors.
template <int kD, class T, bool kVFirst>
struct HeadShape {
  using Element = T;
  static constexpr int kWidth = kD, kThreads = kD, kWarps = kD / 32;
  static constexpr bool kValuesFirst = kVFirst;
  static constexpr int kFours = kD / 4;                     // of the state in a thread's registers
  static constexpr int kLanes = kVFirst ? 8 : kD / 4;       // that share a row
  static constexpr int kRowBytes = kRows * kD * sizeof(T);  // of a warp
  static constexpr int kMost = kD == 64 ? 8 : 3;            // CTAs an SM, by registers
  static constexpr int kFew = kD == 64 ? 4 : 2;             // where they hold all heads
  // Where four i of a lane begins in the warp's rows. Values first: i = 8 j + r is row r of the lane's eight.
  static __device__ __forceinline__ int offset(int lane, int i) {
    if constexpr (kVFirst) return (lane / kLanes * 8 + (i & 7)) * kD + 4 * (lane % kLanes + (i & ~7));
    else return (i * (32 / kLanes) + lane / kLanes) * kD + 4 * (lane % kLanes);
  }
};

constexpr int kAhead = 4;  // raw tokens on their way at once

template <class H>
struct __align__(128) HeadSmem {
  static constexpr int kD = H::kWidth;
  // Once the state is in registers.
  struct Steps {
    float read[4][kD], answer[4][kD];  // keys first: parts of S'^T k and S'^T q
    float write[kD];                   // keys first
    uint32_t raw[kAhead][4][kD];       // q, k, v, g of a token as they come, f32 or shorter
  };
  union {
    typename H::Element state[kD * kD];
    Steps steps;
  };
  float4 token[2][kD];          // keys first: per channel decay, k, q, v; else decays, ks, qs, vs. Even and odd tokens
  float strength[2][kD];        // of the thread's column; this and the next are read by nobody else
  float rate[kD], bias[kD];     // of the thread's channel
  float sums[2][3][H::kWarps];  // per warp: |q|^2, |k|^2, q k
  uint64_t full[H::kWarps];     // the warp's rows have arrived
};

// Where the inputs of a token are, of this head.
struct Rows {
  int64_t qk, own;  // of q and k; of the others
};
template <class H>
__device__ __forceinline__ Rows rows_of(const KdaRecurrentSm90& a, int head, int64_t token) {
  return {token * a.n_qk_heads + head / (a.n_heads / a.n_qk_heads), token * a.n_heads + head};
}
template <class H>
__device__ __forceinline__ uint32_t load_beta(const KdaRecurrentSm90& a, int64_t own) {
  return load_raw(a.beta, a.beta_type, a.beta_per_value ? own * H::kWidth + threadIdx.x : own);
}

// Asks for the token's rows, a quarter of the threads for each.
template <class H>
__device__ __forceinline__ void ask_for(const KdaRecurrentSm90& a, int head, int64_t token, HeadSmem<H>& s, int slot) {
  const Rows rows = rows_of<H>(a, head, token);
  const int row = threadIdx.x / (H::kWidth / 4), piece = threadIdx.x % (H::kWidth / 4);
  const void* const from = row == 0 ? a.q : row == 1 ? a.k : row == 2 ? a.v : a.g;
  const KdaType type = row == 3 ? a.g_type : a.type;
  const int bytes = H::kWidth * (type == KdaType::f32 ? 4 : 2);
  if (piece * 16 < bytes)
    copy16(smem_address(s.steps.raw[slot][row]) + piece * 16,
           static_cast<const char*>(from) + (row < 2 ? rows.qk : rows.own) * bytes + piece * 16, 16);
}
__device__ __forceinline__ void end_of_copies() { commit_copies(); }
// Of all groups of the thread's copies but the kPending latest.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  wait_copies<kPending>();
}

// One token's inputs, of the thread's channel and value column, as they come.
struct RawToken {
  uint32_t q, k, v, g;
};
template <class H>
__device__ __forceinline__ RawToken load_token(const KdaRecurrentSm90& a, int head, int64_t token) {
  const Rows rows = rows_of<H>(a, head, token);
  const int64_t qk = rows.qk * H::kWidth + threadIdx.x, own = rows.own * H::kWidth + threadIdx.x;
  return {load_raw(a.q, a.type, qk), load_raw(a.k, a.type, qk), load_raw(a.v, a.type, own),
          load_raw(a.g, a.g_type, own)};
}
template <class H>
__device__ __forceinline__ RawToken take_token(const KdaRecurrentSm90& a, const HeadSmem<H>& s, int slot) {
  const auto& raw = s.steps.raw[slot];
  const int tid = threadIdx.x;
  return {load_raw(raw[0], a.type, tid), load_raw(raw[1], a.type, tid), load_raw(raw[2], a.type, tid),
          load_raw(raw[3], a.g_type, tid)};
}

// The token between threads. What is rounded is said here and below, so that tokens in one call or in many have the same bits.
template <class H>
__device__ __forceinline__ void prepare(const KdaRecurrentSm90& a, const RawToken& t, uint32_t beta, HeadSmem<H>& s,
                                        int buffer) {
  const int tid = threadIdx.x;
  const float q = value_of(t.q, a.type), k = value_of(t.k, a.type), v = value_of(t.v, a.type);
  const float decay = decay_of(value_of(t.g, a.g_type), s.rate[tid], s.bias[tid], a);
  if constexpr (H::kValuesFirst) {
    float* const vectors = reinterpret_cast<float*>(s.token[buffer]);
    vectors[tid] = decay;
    vectors[H::kWidth + tid] = k;
    vectors[2 * H::kWidth + tid] = q;
    vectors[3 * H::kWidth + tid] = v;
  } else {
    s.token[buffer][tid] = make_float4(decay, k, q, v);
  }
  s.strength[buffer][tid] = strength_of(value_of(beta, a.beta_type), a);
  const float qq = warp_sum_squares(q), kk = warp_sum_squares(k), qk = warp_sum(__fmul_rn(q, k));
  if ((tid & 31) == 0) {
    s.sums[buffer][0][tid >> 5] = qq;
    s.sums[buffer][1][tid >> 5] = kk;
    s.sums[buffer][2][tid >> 5] = qk;
  }
}

// v of the thread's column.
template <class H>
__device__ __forceinline__ float value_column(const HeadSmem<H>& s, int buffer) {
  if constexpr (H::kValuesFirst) return reinterpret_cast<const float*>(s.token[buffer])[3 * H::kWidth + threadIdx.x];
  else return s.token[buffer][threadIdx.x].w;
}

// S'^T k and S'^T q of the thread's value column, before the norms; the held state x becomes S'.
struct Products {
  float read, answer;
};
__device__ __forceinline__ float dot4(float4 x, float4 y, float sum) {
  return fmaf(x.w, y.w, fmaf(x.z, y.z, fmaf(x.y, y.y, fmaf(x.x, y.x, sum))));
}
__device__ __forceinline__ float4 times(float4 x, float4 y) {
  return make_float4(x.x * y.x, x.y * y.y, x.z * y.z, x.w * y.w);
}
template <class H>
__device__ __forceinline__ Products decay_and_multiply(float4 (&x)[H::kFours], HeadSmem<H>& s, int buffer) {
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
  const float4* const token = s.token[buffer];
  if constexpr (H::kValuesFirst) {
    Products p = {};
#pragma unroll
    for (int odd = 0; odd < 2; odd++) {  // half of the lane's rows, then the others: fewer sums at once
      float of_k[4] = {}, of_q[4] = {};
#pragma unroll
      for (int j = 0; j < H::kFours; j += 8) {
        const int four = (lane & 7) + j;
        const float4 decay = token[four], k = token[H::kWidth / 4 + four], q = token[H::kWidth / 2 + four];
#pragma unroll
        for (int r = 0; r < 4; r++) {
          float4& row = x[j + 2 * r + odd];
          row = times(row, decay);
          of_k[r] = dot4(row, k, of_k[r]);
          of_q[r] = dot4(row, q, of_q[r]);
        }
      }
      const Products half = {lanes_sum<4, 4>(of_k), lanes_sum<4, 4>(of_q)};  // of row (lane & 6) + odd
      if (odd == (lane & 1)) p = half;
    }
    return p;
  } else {
    constexpr int kAtOnce = 32 / H::kLanes;
    const int part = warp * kAtOnce + lane / H::kLanes, four = lane % H::kLanes;
    float4 read = {}, answer = {};
#pragma unroll
    for (int i = 0; i < H::kFours; i++) {
      const float4 f = token[warp * kRows + i * kAtOnce + lane / H::kLanes];
      x[i] = scaled(x[i], f.x);
      add_scaled(read, x[i], f.y);
      add_scaled(answer, x[i], f.z);
    }
    reinterpret_cast<float4*>(s.steps.read[part])[four] = read;
    reinterpret_cast<float4*>(s.steps.answer[part])[four] = answer;
    __syncthreads();
    return {sum4(&s.steps.read[0][tid], H::kWidth), sum4(&s.steps.answer[0][tid], H::kWidth)};
  }
}

// x += k write, write of the thread's value column.
template <class H>
__device__ __forceinline__ void add_write(float4 (&x)[H::kFours], const HeadSmem<H>& s, int buffer, float write) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  if constexpr (H::kValuesFirst) {
    float writes[8];
#pragma unroll
    for (int r = 0; r < 8; r++) writes[r] = __shfl_sync(~0u, write, r, 8);
#pragma unroll
    for (int j = 0; j < H::kFours; j += 8) {
      const float4 k = s.token[buffer][H::kWidth / 4 + (lane & 7) + j];
#pragma unroll
      for (int r = 0; r < 8; r++) add_scaled(x[j + r], k, writes[r]);
    }
  } else {
    constexpr int kAtOnce = 32 / H::kLanes;
    const float4 writes = reinterpret_cast<const float4*>(s.steps.write)[lane % H::kLanes];
#pragma unroll
    for (int i = 0; i < H::kFours; i++)
      add_scaled(x[i], writes, s.token[buffer][warp * kRows + i * kAtOnce + lane / H::kLanes].y);
  }
}

template <class H>
__device__ __forceinline__ void store_held(typename H::Element* head_state, const float4 (&x)[H::kFours]) {
  typename H::Element* const rows = head_state + (threadIdx.x >> 5) * kRows * H::kWidth;
#pragma unroll
  for (int i = 0; i < H::kFours; i++) store_four(rows + H::offset(threadIdx.x & 31, i), x[i]);
}

template <class H>
__global__ void __launch_bounds__(H::kThreads, H::kMost)
    recurrent_heads_kernel(const __grid_constant__ KdaRecurrentSm90 a) {
  using T = typename H::Element;
  LINNET_DYNAMIC_SHARED(smem_bytes, 128);
  HeadSmem<H>& s = *reinterpret_cast<HeadSmem<H>*>(smem_bytes);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, first = warp * kRows * H::kWidth;
  const int sequence = blockIdx.x / a.n_heads, head = blockIdx.x % a.n_heads;
  const uint32_t full = smem_address(&s.full[warp]);
  if (lane == 0) {
    barrier_init(full, 1);
    fence_barrier_init();
    if (!a.slots && a.state_in)
      bulk_prefetch(state_of_sequence(static_cast<const T*>(a.state_in), a, sequence, head) + first, H::kRowBytes);
  }
  __syncwarp();
  wait_for_dependency();  // from here on memory may be read
  launch_dependents();
  const T* from;
  if (!first_state(a, sequence, head, from)) return;
  if (from && lane == 0) {
    if (a.slots) bulk_prefetch(from + first, H::kRowBytes);
    barrier_expect(full, H::kRowBytes);
    bulk_load(smem_address(s.state + first), from + first, H::kRowBytes, full);
  }

  const bool raw = a.gate != KdaRecurrentGate::log_decay;
  s.rate[tid] = raw && a.a_log ? expf(a.a_log[head]) : 1.f;
  s.bias[tid] = raw && a.dt_bias ? a.dt_bias[static_cast<int64_t>(head) * H::kWidth + tid] : 0.f;
  const Span span = span_of(a, sequence);
  if (span.begin < span.end)
    prepare(a, load_token<H>(a, head, span.begin), load_beta<H>(a, span.begin * a.n_heads + head), s, 0);
  float4 x[H::kFours] = {};
  if (from) {
    barrier_wait(full, 0);
#pragma unroll
    for (int i = 0; i < H::kFours; i++) x[i] = load_four(s.state + first + H::offset(lane, i));
  }
  __syncthreads();  // the first token is there, the state's memory free
#pragma unroll 1
  for (int i = 1; i < kAhead; i++) {
    if (span.begin + i < span.end) ask_for(a, head, span.begin + i, s, i);
    end_of_copies();
  }
  uint32_t beta = span.begin + 1 < span.end ? load_beta<H>(a, (span.begin + 1) * a.n_heads + head) : 0;

#pragma unroll 1
  for (int t = 0; t < span.end - span.begin; t++) {
    const int64_t token = span.begin + t;
    const int buffer = t & 1;
    wait_for_copies<kAhead - 2>();         // of the next token
    if (H::kValuesFirst) __syncthreads();  // the token and the raw next one are there, the one before no longer read
    const Products p = decay_and_multiply<H>(x, s, buffer);  // keys first: with that barrier
    const float(&sums)[3][H::kWarps] = s.sums[buffer];
    const float q_norm = a.normalize ? a.scale * rsqrtf(sum_of(sums[0]) + kL2Eps) : a.scale;
    const float k_norm = a.normalize ? rsqrtf(sum_of(sums[1]) + kL2Eps) : 1.f;
    const float write = s.strength[buffer][tid] * fmaf(-k_norm, p.read, value_column(s, buffer)) * k_norm;
    store_one(a.out, a.type, (token * a.n_heads + head) * H::kWidth + tid,
              q_norm * fmaf(write, sum_of(sums[2]), p.answer));
    if (!H::kValuesFirst) s.steps.write[tid] = write;
    if (token + 1 < span.end) prepare(a, take_token(a, s, (t + 1) % kAhead), beta, s, buffer ^ 1);
    if (token + 2 < span.end) beta = load_beta<H>(a, (token + 2) * a.n_heads + head);
    if (token + kAhead < span.end) ask_for(a, head, token + kAhead, s, t % kAhead);
    end_of_copies();
    if (!H::kValuesFirst) __syncthreads();
    add_write<H>(x, s, buffer, write);
    if (a.slots && a.state_out) {
      const int slot = a.slots[sequence * a.slots_stride + t];
      if (slot >= 0) store_held<H>(state_in_slot(static_cast<T*>(a.state_out), a, slot, head), x);
    }
  }
  if (!a.slots && a.state_out) store_held<H>(state_of_sequence(static_cast<T*>(a.state_out), a, sequence, head), x);
}

// Few heads: an SM takes so many that all run at once and spread evenly, and the grid starts while the one before it ends.
template <class H>
cudaError_t launch(const KdaRecurrentSm90& a, cudaStream_t stream) {
  const int64_t grid = static_cast<int64_t>(a.n_sequences) * a.n_heads;
  if (grid > 0x7fffffff) return cudaErrorInvalidValue;
  constexpr int kFewBytes = kHalfSmBytes * 2 / H::kFew, kBytes = static_cast<int>(sizeof(HeadSmem<H>));
  static_assert(kBytes <= kFewBytes && H::kMost * (kBytes + 1024) <= 228 * 1024);
  const bool few = grid <= H::kFew * kSms;
  return launch_beside<H::kThreads>(recurrent_heads_kernel<H>, static_cast<unsigned>(grid), few ? kFewBytes : kBytes,
                                    few, stream, a);
}
template <int kD, class T>
cudaError_t launch(const KdaRecurrentSm90& a, cudaStream_t stream) {
  return a.state_v_first ? launch<HeadShape<kD, T, true>>(a, stream) : launch<HeadShape<kD, T, false>>(a, stream);
}
template <int kD>
cudaError_t launch(const KdaRecurrentSm90& a, cudaStream_t stream) {
  return a.state_type == KdaType::bf16 ? launch<kD, __nv_bfloat16>(a, stream) : launch<kD, float>(a, stream);
}

}  // namespace

cudaError_t launch_recurrent_heads(const KdaRecurrentSm90& a, cudaStream_t stream) {
  return a.k_dim == 64 ? launch<64>(a, stream) : launch<128>(a, stream);
}

}  // namespace linnet::ops::sm90
