// kda_sm90 recurrent: the recurrence token after token, any head widths. Square heads of 64 and 128 have linear_attn_sm90_recurrent_heads.cu.
//
// Grid    a CTA of 4 warps per (sequence, head, 32 value columns; 64 with keys of at most 64 channels). A warp owns 8 or 16 columns and all key
//         channels: a lane 4 channels (8 with keys above 128) of 8 columns, so that no sum crosses a warp.
// Tile    the state in registers, f32: 32 or 64 values a lane. [V, K] states: a lane's channels are neighbours, 16 B each (bf16: 8), a
//         warp reads 512 B at once. [K, V] states go through shared memory, rows of 128 B; a lane's channels are then 32 apart, without conflicts.
// Chain   each token's raw q, k and its decay go through shared memory (thread = channel, two buffers, one barrier a token), with the
//         sums of the norms; the next token's inputs are loaded while this one is computed. o = S'^T q + u (k . q) with S' the decayed
//         state, so both products read S' once and one reduction over lanes serves them.
// Smem    2 * 3 * 4 * width B: 3 KB at 128; a [K, V] state's tile 17 KB (34 KB at 256). Registers 168, spills 0.
// Numeric all f32 (exp, log1p and not their fast forms). Bitwise deterministic, whatever the batch.
// Traffic per head: the state in and out, 8 K V bytes (f32); every CTA of a head reads q, k and g again, from the caches.
#include <type_traits>

#include "ops/linear_attn/linear_attn_sm90_recurrent.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kColumns = 8;  // of a lane

// How a warp divides a state of kWidth (padded) key channels.
template <int kWidth>
struct Shape {
  static constexpr int kLanes = kWidth / 4 < 32 ? kWidth / 4 : 32;  // along the key channels
  static constexpr int kQuads = kWidth / 4 / kLanes;                // fours of key channels of a lane: quad l, l + 32
  static constexpr int kWarpColumns = kColumns * (32 / kLanes), kCtaColumns = kWarps * kWarpColumns;
  static constexpr int kPerThread =
      (kWidth + kThreads - 1) / kThreads;  // channels of a thread while a token is prepared
};

__device__ __forceinline__ float load_one(const void* p, KdaType type, int64_t at) {
  return value_of(load_raw(p, type, at), type);
}

// Where a thread works: its sequence and heads, its first value column, the column that it holds after lanes_sum, its first key quad.
struct Place {
  int sequence, head, qk_head, cta_columns, columns, own, quad;
  bool own_valid, stores;
};

template <int kWidth>
__device__ __forceinline__ Place place_of(const KdaRecurrentSm90& a) {
  using S = Shape<kWidth>;
  const int slices = (a.v_dim + S::kCtaColumns - 1) / S::kCtaColumns, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int head = blockIdx.x / slices, group = lane / S::kLanes, at = lane % S::kLanes;
  Place p;
  p.sequence = head / a.n_heads;
  p.head = head % a.n_heads;
  p.qk_head = p.head / (a.n_heads / a.n_qk_heads);
  p.cta_columns = (blockIdx.x % slices) * S::kCtaColumns;
  p.columns = p.cta_columns + warp * S::kWarpColumns + group * kColumns;
  p.own = p.columns + at * kColumns / S::kLanes;
  p.quad = at;
  p.own_valid = p.own < a.v_dim;
  p.stores = p.own_valid && at % (S::kLanes / kColumns) == 0;
  return p;
}

// One token's inputs as they come: a thread's channels, and its own column's value.
template <int kChannels>
struct Token {
  float q[kChannels], k[kChannels], g[kChannels], v, beta;
};

template <int kChannels>
__device__ __forceinline__ Token<kChannels> load_token(const KdaRecurrentSm90& a, const Place& p, int64_t token) {
  Token<kChannels> t = {};
  const int64_t qk = (token * a.n_qk_heads + p.qk_head) * a.k_dim, head = token * a.n_heads + p.head;
#pragma unroll
  for (int i = 0; i < kChannels; i++) {
    const int channel = threadIdx.x + kThreads * i;
    if (channel < a.k_dim) {
      t.q[i] = load_one(a.q, a.type, qk + channel);
      t.k[i] = load_one(a.k, a.type, qk + channel);
      t.g[i] = load_one(a.g, a.g_type, head * a.k_dim + channel);
    }
  }
  if (p.own_valid) {
    t.v = load_one(a.v, a.type, head * a.v_dim + p.own);
    t.beta = load_one(a.beta, a.beta_type, a.beta_per_value ? head * a.v_dim + p.own : head);
  }
  return t;
}

// A token between threads. Channels beyond k_dim: zeros, decay 1.
template <int kWidth>
struct Shared {
  float4 decay[kWidth / 4], k[kWidth / 4], q[kWidth / 4];
  float sums[3][kWarps];  // |q|^2, |k|^2, q k
};

template <int kWidth>
__device__ __forceinline__ void prepare(const KdaRecurrentSm90& a, const Token<Shape<kWidth>::kPerThread>& t,
                                        float rate, const float (&bias)[Shape<kWidth>::kPerThread], Shared<kWidth>& s) {
  float qq = 0, kk = 0, qk = 0;
#pragma unroll
  for (int i = 0; i < Shape<kWidth>::kPerThread; i++) {
    const int channel = threadIdx.x + kThreads * i;
    qq = fmaf(t.q[i], t.q[i], qq);
    kk = fmaf(t.k[i], t.k[i], kk);
    qk = fmaf(t.q[i], t.k[i], qk);
    if (channel < kWidth) {
      reinterpret_cast<float*>(s.decay)[channel] = channel < a.k_dim ? decay_of(t.g[i], rate, bias[i], a) : 1.f;
      reinterpret_cast<float*>(s.k)[channel] = t.k[i];
      reinterpret_cast<float*>(s.q)[channel] = t.q[i];
    }
  }
  qq = warp_sum(qq);
  kk = warp_sum(kk);
  qk = warp_sum(qk);
  if ((threadIdx.x & 31) == 0) {
    s.sums[0][threadIdx.x >> 5] = qq;
    s.sums[1][threadIdx.x >> 5] = kk;
    s.sums[2][threadIdx.x >> 5] = qk;
  }
}

// A lane's part of a state: [quad][channel of the quad][column].
template <int kQuads>
struct State {
  float s[kQuads][4][kColumns];
};

// Key channel r of quad i of the lane at place `at`.
template <int kWidth, bool kVFirst>
__device__ __forceinline__ int channel_of(int at, int i, int r) {
  return kVFirst ? 4 * (at + 32 * i) + r : at + Shape<kWidth>::kLanes * (4 * i + r);
}

// A CTA's part of a [K, V] state on its way between memory and registers; the odd stride keeps both sides free of bank conflicts.
template <int kWidth>
struct Tile {
  float x[kWidth][Shape<kWidth>::kCtaColumns + 1];
};

// Between memory and the tile, four elements a thread and step. kLoad: from memory.
template <bool kLoad, int kWidth, class T>
__device__ __forceinline__ void move_tile(const KdaRecurrentSm90& a, const Place& p, T* memory, Tile<kWidth>& tile) {
  constexpr int kPieces = Shape<kWidth>::kCtaColumns / 4, kSteps = kWidth * kPieces / kThreads;
  const int piece = threadIdx.x % kPieces, column = p.cta_columns + 4 * piece;
  float4 x[kSteps];
#pragma unroll
  for (int i = 0; i < kSteps; i++) {
    const int row = threadIdx.x / kPieces + kThreads / kPieces * i;
    float* const at = &tile.x[row][4 * piece];
    if (kLoad) x[i] = make_float4(0, 0, 0, 0);
    else x[i] = make_float4(at[0], at[1], at[2], at[3]);
    if (row >= a.k_dim || column >= a.v_dim) continue;
    T* const there = memory + static_cast<int64_t>(row) * a.v_dim + column;
    if (kLoad) x[i] = load_four(there);
    else store_four(there, x[i]);
  }
  if constexpr (kLoad) {
#pragma unroll
    for (int i = 0; i < kSteps; i++) {
      float* const at = &tile.x[threadIdx.x / kPieces + kThreads / kPieces * i][4 * piece];
      at[0] = x[i].x, at[1] = x[i].y, at[2] = x[i].z, at[3] = x[i].w;
    }
  }
}

// A [V, K] state between memory and registers.
template <bool kLoad, int kQuads, class T>
__device__ __forceinline__ void move_rows(const KdaRecurrentSm90& a, const Place& p, T* memory, State<kQuads>& s) {
#pragma unroll
  for (int i = 0; i < kQuads; i++) {
    const int channel = 4 * (p.quad + 32 * i);
#pragma unroll
    for (int c = 0; c < kColumns; c++) {
      if (channel >= a.k_dim || p.columns + c >= a.v_dim) continue;
      T* const at = memory + static_cast<int64_t>(p.columns + c) * a.k_dim + channel;
      if constexpr (kLoad) {
        const float4 x = load_four(at);
        s.s[i][0][c] = x.x, s.s[i][1][c] = x.y, s.s[i][2][c] = x.z, s.s[i][3][c] = x.w;
      } else {
        store_four(at, make_float4(s.s[i][0][c], s.s[i][1][c], s.s[i][2][c], s.s[i][3][c]));
      }
    }
  }
}

template <int kWidth>
__device__ __forceinline__ float& tile_entry(const Place& p, Tile<kWidth>& tile, int i, int r, int c) {
  return tile.x[channel_of<kWidth, false>(p.quad, i, r)][p.columns - p.cta_columns + c];
}

// States that are not wholly there (channels and columns beyond the widths) are zeros beyond.
template <int kWidth, bool kVFirst, class T>
__device__ __forceinline__ void load_state(const KdaRecurrentSm90& a, const Place& p, const T* memory,
                                           Tile<kWidth>& tile, State<Shape<kWidth>::kQuads>& s) {
  T* const from = const_cast<T*>(memory);
  if constexpr (kVFirst) {
    move_rows<true>(a, p, from, s);
  } else {
    move_tile<true>(a, p, from, tile);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < Shape<kWidth>::kQuads; i++) {
#pragma unroll
      for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int c = 0; c < kColumns; c++) s.s[i][r][c] = tile_entry(p, tile, i, r, c);
      }
    }
  }
}
template <int kWidth, bool kVFirst, class T>
__device__ __forceinline__ void store_state(const KdaRecurrentSm90& a, const Place& p, T* memory, Tile<kWidth>& tile,
                                            State<Shape<kWidth>::kQuads>& s) {
  if constexpr (kVFirst) {
    move_rows<false>(a, p, memory, s);
  } else {
    __syncthreads();  // the tile has been read by all
#pragma unroll
    for (int i = 0; i < Shape<kWidth>::kQuads; i++) {
#pragma unroll
      for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int c = 0; c < kColumns; c++) tile_entry(p, tile, i, r, c) = s.s[i][r][c];
      }
    }
    __syncthreads();
    move_tile<false>(a, p, memory, tile);
  }
}

// A lane's four channels of a quad.
template <int kWidth, bool kVFirst>
__device__ __forceinline__ void load_quad(const float4 (&from)[kWidth / 4], const Place& p, int i, float (&x)[4]) {
  if constexpr (kVFirst) {
    const float4 v = from[p.quad + 32 * i];
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  } else {
#pragma unroll
    for (int r = 0; r < 4; r++) x[r] = reinterpret_cast<const float*>(from)[channel_of<kWidth, false>(p.quad, i, r)];
  }
}

// Decays the state and adds the token; returns the output of the thread's own column.
template <int kWidth, bool kVFirst>
__device__ __forceinline__ float step(const KdaRecurrentSm90& a, const Place& p, const Shared<kWidth>& token,
                                      State<Shape<kWidth>::kQuads>& s, float v, float beta) {
  using S = Shape<kWidth>;
  float products[2 * kColumns] = {};  // S'^T k and S'^T q, column by column
#pragma unroll
  for (int i = 0; i < S::kQuads; i++) {
    float d[4], k[4], q[4];
    load_quad<kWidth, kVFirst>(token.decay, p, i, d);
    load_quad<kWidth, kVFirst>(token.k, p, i, k);
    load_quad<kWidth, kVFirst>(token.q, p, i, q);
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
      for (int c = 0; c < kColumns; c++) {
        const float x = s.s[i][r][c] *= d[r];
        products[c] = fmaf(x, k[r], products[c]);
        products[kColumns + c] = fmaf(x, q[r], products[kColumns + c]);
      }
    }
  }
  float of_k[kColumns], of_q[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; c++) of_k[c] = products[c], of_q[c] = products[kColumns + c];
  const float q_norm = a.normalize ? a.scale / sqrtf(sum4(token.sums[0], 1) + kL2Eps) : a.scale;
  const float k_norm = a.normalize ? 1.f / sqrtf(sum4(token.sums[1], 1) + kL2Eps) : 1.f;
  const float read = lanes_sum<kColumns, S::kLanes / 2>(of_k), answer = lanes_sum<kColumns, S::kLanes / 2>(of_q);
  const float u = beta * (v - k_norm * read), write = u * k_norm;
  float writes[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; c++) writes[c] = __shfl_sync(~0u, write, c * (S::kLanes / kColumns), S::kLanes);
#pragma unroll
  for (int i = 0; i < S::kQuads; i++) {
    float k[4];
    load_quad<kWidth, kVFirst>(token.k, p, i, k);
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
      for (int c = 0; c < kColumns; c++) s.s[i][r][c] = fmaf(k[r], writes[c], s.s[i][r][c]);
    }
  }
  return q_norm * fmaf(write, sum4(token.sums[2], 1), answer);
}

template <int kWidth, bool kVFirst, class T>
__global__ void __launch_bounds__(kThreads) recurrent_kernel(const __grid_constant__ KdaRecurrentSm90 a) {
  using S = Shape<kWidth>;
  LINNET_SHARED(shared, Shared<kWidth>[2]);
  LINNET_SHARED(tile_bytes, std::conditional_t<kVFirst, char, Tile<kWidth>>);
  auto& tile = reinterpret_cast<Tile<kWidth>&>(tile_bytes);
  const Place p = place_of<kWidth>(a);
  const auto [begin, end] = span_of(a, p.sequence);
  const T* from;
  if (!first_state(a, p.sequence, p.head, from)) return;
  T* const pool = static_cast<T*>(a.state_out);
  State<S::kQuads> s = {};
  if (from) load_state<kWidth, kVFirst>(a, p, from, tile, s);
  const bool raw = a.gate != KdaRecurrentGate::log_decay;
  const float rate = raw && a.a_log ? expf(a.a_log[p.head]) : 1.f;
  float bias[S::kPerThread] = {};
#pragma unroll
  for (int i = 0; i < S::kPerThread; i++) {
    const int channel = threadIdx.x + kThreads * i;
    if (raw && a.dt_bias && channel < a.k_dim) bias[i] = a.dt_bias[static_cast<int64_t>(p.head) * a.k_dim + channel];
  }
  Token<S::kPerThread> next = {};
  if (begin < end) next = load_token<S::kPerThread>(a, p, begin);
  for (int64_t token = begin; token < end; token++) {
    const Token<S::kPerThread> now = next;
    Shared<kWidth>& between = shared[(token - begin) & 1];
    if (token + 1 < end) next = load_token<S::kPerThread>(a, p, token + 1);
    prepare<kWidth>(a, now, rate, bias, between);
    __syncthreads();
    const float o = step<kWidth, kVFirst>(a, p, between, s, now.v, strength_of(now.beta, a));
    if (p.stores) store_one(a.out, a.type, (token * a.n_heads + p.head) * a.v_dim + p.own, o);
    if (a.slots && pool) {
      const int slot = a.slots[p.sequence * a.slots_stride + (token - begin)];
      if (slot >= 0) store_state<kWidth, kVFirst>(a, p, state_in_slot(pool, a, slot, p.head), tile, s);
    }
  }
  if (!a.slots && pool) store_state<kWidth, kVFirst>(a, p, state_of_sequence(pool, a, p.sequence, p.head), tile, s);
}

template <int kWidth, class T>
cudaError_t launch(const KdaRecurrentSm90& a, cudaStream_t stream) {
  constexpr int kColumnsOfCta = Shape<kWidth>::kCtaColumns;
  const int64_t n_ctas =
      static_cast<int64_t>(a.n_sequences) * a.n_heads * ((a.v_dim + kColumnsOfCta - 1) / kColumnsOfCta);
  if (n_ctas > 0x7fffffff) return cudaErrorInvalidValue;
  const auto kernel = a.state_v_first ? recurrent_kernel<kWidth, true, T> : recurrent_kernel<kWidth, false, T>;
  return launch_grid(kernel, static_cast<unsigned>(n_ctas), kThreads, 0, stream, a);
}
template <int kWidth>
cudaError_t launch(const KdaRecurrentSm90& a, cudaStream_t stream) {
  return a.state_type == KdaType::bf16 ? launch<kWidth, __nv_bfloat16>(a, stream) : launch<kWidth, float>(a, stream);
}

bool is_aligned(const KdaRecurrentSm90& a) {
  const int64_t stride_bytes = a.slots ? a.state_stride * (a.state_type == KdaType::bf16 ? 2 : 4) : 0;
  return (reinterpret_cast<uintptr_t>(a.state_in) | reinterpret_cast<uintptr_t>(a.state_out) | stride_bytes) % 16 == 0;
}
bool has_heads_kernel(const KdaRecurrentSm90& a) {
  const uintptr_t rows = reinterpret_cast<uintptr_t>(a.q) | reinterpret_cast<uintptr_t>(a.k) |
                         reinterpret_cast<uintptr_t>(a.v) | reinterpret_cast<uintptr_t>(a.g);
  return a.k_dim == a.v_dim && (a.k_dim == 64 || a.k_dim == 128) && rows % 16 == 0;
}

}  // namespace

cudaError_t launch_recurrent_columns(const KdaRecurrentSm90& a, cudaStream_t stream) {
  if (a.k_dim <= 64) return launch<64>(a, stream);
  return a.k_dim <= 128 ? launch<128>(a, stream) : launch<256>(a, stream);
}

}  // namespace linnet::ops::sm90

namespace linnet::ops {

int kda_recurrent_sm90(const KdaRecurrentSm90& a, CUstream_st* stream) noexcept {
  if (a.n_sequences == 0 || a.n_heads == 0 || a.v_dim == 0) return cudaSuccess;
  if (a.k_dim <= 0 || a.k_dim > 256 || a.k_dim % 4 || a.v_dim < 0 || a.v_dim % 4) return cudaErrorInvalidValue;
  if (a.n_sequences < 0 || a.n_qk_heads <= 0 || a.n_heads % a.n_qk_heads) return cudaErrorInvalidValue;
  if (a.state_type == KdaType::f16 || !sm90::is_aligned(a)) return cudaErrorInvalidValue;
  return sm90::has_heads_kernel(a) ? sm90::launch_recurrent_heads(a, stream)
                                   : sm90::launch_recurrent_columns(a, stream);
}

}  // namespace linnet::ops
