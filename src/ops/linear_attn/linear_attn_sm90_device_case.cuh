// Inputs drawn and results compared on the GPU, for sizes that are slow on the host. Indices are 64 bits wide throughout.
#pragma once

#include <cuda_fp16.h>

#include "core/kernel_cuda.cuh"
#include "ops/linear_attn/linear_attn_sm90_recurrent.h"
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"

namespace linnet::ops::sm90_check {

// f(i) for all i in [0, n), on the check's stream.
template <class F>
__global__ void each_kernel(int64_t n, F f) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step) f(i);
}
template <class F>
void each(int64_t n, F f) {
  LINNET_CUDA_OK(launch_grid(each_kernel<F>, 1056, 256, 0, stream(), n, f));
}

__host__ __device__ inline uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Element i of a random sequence: the sum of four uniform numbers, mean 0, variance 1.
__host__ __device__ inline float random_at(uint64_t seed, int64_t i) {
  const uint64_t x = mixed(mixed(seed) + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(i));
  const auto sum = static_cast<float>((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
  return (sum * (1.f / 65536) - 2) * 1.7320508f;
}

// What a random number becomes.
struct Spread {
  float mean = 0, sigma = 1;
  __device__ float operator()(float x) const { return mean + sigma * x; }
};
// Log decays: none, complete, and between 1e-4 and e^1.
struct LogDecays {
  __device__ float operator()(float x) const { return x < -1.9f ? 0.f : x > 2.1f ? -1000.f : -expf(2.5f * x - 4); }
};
// Write strengths from 0 to 2.
struct Strengths {
  __device__ float operator()(float x) const { return 2 / (1 + expf(-2 * x)); }
};

template <class T, class Map>
struct Draws {
  T* to;
  uint64_t seed;
  Map map;
  __device__ void operator()(int64_t i) const { to[i] = static_cast<T>(map(random_at(seed, i))); }
};
template <class T, class Map = Spread>
void draw(const DeviceArray<T>& x, uint64_t seed, Map map = {}) {
  each(static_cast<int64_t>(x.size()), Draws<T, Map>{x.get(), seed, map});
}

template <class W>
struct Differences {
  const W *a, *b;
  unsigned long long* first;
  __device__ void operator()(int64_t i) const {
    if (a[i] != b[i]) atomicMin(first, static_cast<unsigned long long>(i));
  }
};
// The first of n elements whose bits differ, or n.
template <class T>
int64_t first_difference(const T* a, const T* b, int64_t n) {
  using W = std::conditional_t<sizeof(T) == 2, uint16_t, uint32_t>;
  static_assert(sizeof(T) == sizeof(W));
  DeviceArray<unsigned long long> first(std::vector<unsigned long long>{static_cast<unsigned long long>(n)});
  each(n, Differences<W>{reinterpret_cast<const W*>(a), reinterpret_cast<const W*>(b), first.get()});
  LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  return static_cast<int64_t>(first.host()[0]);
}
// " at 17 of 32" of a difference, or nothing.
inline std::string where(int64_t first, int64_t n) {
  return first == n ? "" : " at " + std::to_string(first) + " of " + std::to_string(n);
}

struct Sums {
  double error, size;        // squares of x - y and of y
  unsigned long long worst;  // the largest row's error, as bits: NaN is the largest of all
};
// Rows of 128, a warp each.
template <class X, class Y>
__global__ void compare_kernel(int64_t n_rows, const X* x, const Y* y, Sums* sums) {
  const int64_t n_warps = static_cast<int64_t>(gridDim.x) * blockDim.x / 32;
  double error = 0, size = 0, worst = 0;
  for (int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32; row < n_rows; row += n_warps) {
    double e = 0;
    for (int i = 0; i < 4; i++) {
      const int64_t at = row * kD + 32 * i + (threadIdx.x & 31);
      const double want = static_cast<float>(y[at]), d = static_cast<float>(x[at]) - want;
      e += d * d, size += want * want;
    }
    error += e;
    for (int bit = 16; bit; bit /= 2) e += __shfl_xor_sync(~0u, e, bit);
    worst = e <= worst ? worst : e;  // NaN, too
  }
  for (int bit = 16; bit; bit /= 2) {
    error += __shfl_xor_sync(~0u, error, bit);
    size += __shfl_xor_sync(~0u, size, bit);
  }
  if (threadIdx.x & 31) return;
  atomicAdd(&sums->error, error);
  atomicAdd(&sums->size, size);
  atomicMax(&sums->worst, static_cast<unsigned long long>(__double_as_longlong(worst)) & ~(1ull << 63));
}
// x against y as the host's compare would do it.
template <class X, class Y>
Error compare_on_device(const X* x, const Y* y, int64_t n_rows) {
  DeviceArray<Sums> sums(std::vector<Sums>(1));
  LINNET_CUDA_OK(launch_grid(compare_kernel<X, Y>, 1056, 256, 0, stream(), n_rows, x, y, sums.get()));
  LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  const Sums s = sums.host()[0];
  double worst;
  std::memcpy(&worst, &s.worst, sizeof worst);
  const double row = s.size / static_cast<double>(n_rows);
  return {std::sqrt(s.error / s.size), std::sqrt(worst / row), std::isfinite(s.error) && std::isfinite(worst)};
}

// Random inputs on the device. T: of q, k, v, beta logits and out. With KdaGate::log_decay also write strengths in f32 and, where n_qk_heads is
// not n_heads, grouped heads; else the layer's call.
template <class T>
struct DrawnCase {
  int64_t N;
  int H, Hqk;
  bool values;  // log decays and write strengths
  KdaGate gate;
  DeviceArray<T> q, k, v, z, beta;
  DeviceArray<float> log_decay, strength, a_log, dt_bias;

  DrawnCase(int64_t n_tokens, int n_heads, int n_qk_heads, KdaGate of_gate)
      : N(n_tokens),
        H(n_heads),
        Hqk(n_qk_heads),
        values(of_gate == KdaGate::log_decay),
        gate(of_gate),
        q(N * Hqk * kD),
        k(N * Hqk * kD),
        v(N * H * kD),
        z(values ? 0 : N * H * kD),
        beta(values ? 0 : N * H),
        log_decay(values ? N * H * kD : 0),
        strength(values ? N * H : 0),
        a_log(H),
        dt_bias(static_cast<size_t>(H) * kD) {
    redraw(1);
    draw(a_log, 8, Spread{1, 0.5f}), draw(dt_bias, 9, Spread{-4.5f, 1.3f});
  }
  void redraw(uint64_t seed) const {
    draw(q, 10 * seed + 1), draw(k, 10 * seed + 2), draw(v, 10 * seed + 3);
    draw(z, 10 * seed + 4, Spread{0, 0.5f}), draw(beta, 10 * seed + 5, Spread{0, 1.5f});
    draw(log_decay, 10 * seed + 6, LogDecays{}), draw(strength, 10 * seed + 7, Strengths{});
  }
  static constexpr bool kF16 = std::is_same_v<T, __half>;
  static constexpr float kScale = 0.08838834764831845f;

  // Of n tokens from `begin` on in n_sequences that begin at seq_start; out's place is that of all tokens. States: none.
  KdaPrefillSm90 prefill(int64_t begin, int64_t n, int n_sequences, const void* seq_start, bool is_64, T* out) const {
    return {.q = q.get() + begin * Hqk * kD,
            .k = k.get() + begin * Hqk * kD,
            .v = v.get() + begin * H * kD,
            .z = values ? static_cast<const void*>(log_decay.get() + begin * H * kD) : z.get() + begin * H * kD,
            .beta = values ? nullptr : beta.get() + begin * H,
            .out = out + begin * H * kD,
            .token_stride = static_cast<int64_t>(H) * kD,
            .seq_start = seq_start,
            .seq_start_is_64 = is_64,
            .n_sequences = n_sequences,
            .n_heads = H,
            .n_tokens = n,
            .state = nullptr,
            .state_in = nullptr,
            .state_out = nullptr,
            .scale = kScale,
            .gate = {a_log.get(), dt_bias.get(), gate, -5.f},
            .beta_value = values ? strength.get() + begin * H : nullptr,
            .qk_stride = static_cast<int64_t>(Hqk) * kD,
            .n_qk_heads = Hqk,
            .input = kF16 ? KdaInput::f16 : KdaInput::bf16};
  }
  // The same by the plain recurrence, whose states are dense.
  KdaRecurrentSm90 recurrence(int64_t begin, int n_sequences, const int64_t* seq_start, T* out, const float* state_in,
                              float* state_out) const {
    constexpr KdaType type = kF16 ? KdaType::f16 : KdaType::bf16;
    const auto raw = gate == KdaGate::softplus ? KdaRecurrentGate::softplus : KdaRecurrentGate::lower_bound;
    return {.q = q.get() + begin * Hqk * kD,
            .k = k.get() + begin * Hqk * kD,
            .v = v.get() + begin * H * kD,
            .g = values ? static_cast<const void*>(log_decay.get() + begin * H * kD) : z.get() + begin * H * kD,
            .beta = values ? static_cast<const void*>(strength.get() + begin * H) : beta.get() + begin * H,
            .out = out + begin * H * kD,
            .a_log = a_log.get(),
            .dt_bias = dt_bias.get(),
            .seq_start = seq_start,
            .state_in = state_in,
            .state_out = state_out,
            .n_sequences = n_sequences,
            .n_qk_heads = Hqk,
            .n_heads = H,
            .k_dim = kD,
            .v_dim = kD,
            .type = type,
            .g_type = values ? KdaType::f32 : type,
            .beta_type = values ? KdaType::f32 : type,
            .gate = values ? KdaRecurrentGate::log_decay : raw,
            .scale = kScale,
            .lower_bound = -5.f,
            .normalize = 1,
            .beta_logits = !values,
            .beta_max = 1,
            .seq_start_is_64 = 1};
  }
};

}  // namespace linnet::ops::sm90_check
