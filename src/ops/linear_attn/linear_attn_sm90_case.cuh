// Test and benchmark inputs of the Hopper KDA kernels, and their definition in double on the CPU, from the raw bf16 inputs.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "ops/linear_attn/linear_attn_sm90.h"

namespace linnet::ops::sm90_check {

using bf16 = __nv_bfloat16;
constexpr int kD = kKdaSm90Dim;

#define LINNET_CUDA_OK(expr)                                                                     \
  do {                                                                                           \
    const cudaError_t e = static_cast<cudaError_t>(expr);                                        \
    if (e != cudaSuccess) {                                                                      \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expr, cudaGetErrorString(e)); \
      std::exit(1);                                                                              \
    }                                                                                            \
  } while (0)

// A blocking stream: the copies and fills of the default stream wait for it and it for them.
inline cudaStream_t stream() {
  static const cudaStream_t s = [] {
    cudaStream_t x;
    LINNET_CUDA_OK(cudaStreamCreate(&x));
    return x;
  }();
  return s;
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : n_(n) { LINNET_CUDA_OK(cudaMalloc(&p_, std::max<size_t>(n, 1) * sizeof(T))); }
  explicit DeviceArray(const std::vector<T>& v) : DeviceArray(v.size()) { copy_from(v); }
  DeviceArray(DeviceArray&& o) noexcept : p_(o.p_), n_(o.n_) { o.p_ = nullptr; }
  DeviceArray(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(p_); }
  T* get() const { return p_; }
  size_t size() const { return n_; }
  void copy_from(const std::vector<T>& v) {
    LINNET_CUDA_OK(cudaMemcpy(p_, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  void poison() { LINNET_CUDA_OK(cudaMemset(p_, 0xff, n_ * sizeof(T))); }  // NaN in bf16 and f32
  std::vector<T> host() const {
    std::vector<T> v(n_);
    LINNET_CUDA_OK(cudaMemcpy(v.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }

 private:
  T* p_ = nullptr;
  size_t n_;
};

// How the gates (and, for the last three, keys and write strengths) are drawn.
enum class Draw { trained, weak, strong, mixed, zero, cliffs, bounded, collinear, beta_zero, beta_one };
constexpr const char* kDrawNames[] = {"trained", "weak",    "strong",    "mixed",     "zero",
                                      "cliffs",  "bounded", "collinear", "beta_zero", "beta_one"};

struct Case {
  int H = 1;
  std::vector<int64_t> start;  // [B + 1]
  std::vector<bf16> q, k, v, z, beta;
  std::vector<float> a_log, dt_bias, state;  // state [B, H, 128, 128]
  KdaGate gate = KdaGate::softplus;
  float scale = 0.08838834764831845f;
  int B() const { return static_cast<int>(start.size()) - 1; }
  int64_t N() const { return start.back(); }
};

inline float inverse_softplus(float y) { return y > 20 ? y : std::log(std::expm1(y)); }

inline Case make_case(Draw draw, const std::vector<int64_t>& lengths, int H, unsigned seed, bool zero_state = false) {
  Case c;
  c.H = H;
  c.start.push_back(0);
  for (int64_t n : lengths) c.start.push_back(c.start.back() + n);
  c.gate = draw == Draw::bounded ? KdaGate::lower_bound : KdaGate::softplus;
  const int64_t rows = c.N() * H;
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  const auto fill = [&](std::vector<bf16>& x, size_t n, float mean, float sigma) {
    x.resize(n);
    for (auto& e : x) e = __float2bfloat16(mean + sigma * normal(rng));
  };
  fill(c.q, rows * kD, 0, 1);
  fill(c.k, rows * kD, 0, 1);
  fill(c.v, rows * kD, 0, 1);
  fill(c.z, rows * kD, 0, draw == Draw::strong || draw == Draw::bounded ? 1.f : 0.5f);
  fill(c.beta, rows, 0, 1.5f);
  c.a_log.resize(H);
  c.dt_bias.resize(H * kD);
  const bool trained_rate =
      draw == Draw::trained || draw == Draw::collinear || draw == Draw::beta_zero || draw == Draw::beta_one;
  for (auto& a : c.a_log) a = trained_rate ? std::log(1 + 15 * uniform(rng)) : 0.f;
  for (int i = 0; i < H * kD; i++) {
    float target = std::exp(std::log(1e-3f) + uniform(rng) * std::log(100.f));  // initialisation of the published layer
    if (draw == Draw::weak) target = 0.01f;
    if (draw == Draw::strong) target = 5.f;
    if (draw == Draw::mixed) target = i % 4 == 0 ? 1e-5f : i % 4 == 1 ? 0.01f : i % 4 == 2 ? 1.f : 30.f;
    c.dt_bias[i] = draw == Draw::zero ? -200.f : draw == Draw::bounded ? 0.f : inverse_softplus(target);
  }
  if (draw == Draw::cliffs) {
    for (auto& z : c.z) z = __float2bfloat16(uniform(rng) < 0.1f ? 200.f : -3.f);
  }
  if (draw == Draw::collinear) {
    for (int64_t n = 0; n < c.N(); n++) {
      for (int h = 0; h < H; h++) {
        for (int d = 0; d < kD; d++) {
          const size_t at = (n * H + h) * kD + d;
          c.k[at] = __float2bfloat16(__bfloat162float(c.k[h * kD + d]) + 0.02f * __bfloat162float(c.k[at]) * (n > 0));
        }
      }
    }
    for (auto& b : c.beta) b = __float2bfloat16(6.f);
    std::fill(c.dt_bias.begin(), c.dt_bias.end(), inverse_softplus(1e-4f));
  }
  if (draw == Draw::beta_zero || draw == Draw::beta_one) {
    for (auto& b : c.beta) b = __float2bfloat16(draw == Draw::beta_one ? 1e4f : -1e4f);
  }
  c.state.resize(static_cast<size_t>(c.B()) * H * kD * kD);
  for (auto& s : c.state) s = zero_state ? 0.f : 0.3f * normal(rng);
  return c;
}

struct Result {
  std::vector<double> out, state;
};

inline double log_decay(const Case& c, int h, int d, double z) {
  const double x = z + c.dt_bias[h * kD + d], rate = std::exp(static_cast<double>(c.a_log[h]));
  if (c.gate == KdaGate::lower_bound) return -5.0 / (1 + std::exp(-rate * x));
  return -rate * (x > 40 ? x : std::log1p(std::exp(x)));
}

// One token: S is [128 (Dk), 128 (Dv)]; q, k raw; o and u as in linear_attn.h.
inline void reference_token(const Case& c, int h, const double* q, const double* k, const double* v, const double* z,
                            double beta, double* s, double* o) {
  double qq = 1e-6, kk = 1e-6, r[kD] = {}, u[kD];
  for (int d = 0; d < kD; d++) qq += q[d] * q[d], kk += k[d] * k[d];
  for (int d = 0; d < kD; d++) {
    const double decay = std::exp(log_decay(c, h, d, z[d])), kd = k[d] / std::sqrt(kk);
    for (int e = 0; e < kD; e++) r[e] += (s[d * kD + e] *= decay) * kd;
  }
  for (int e = 0; e < kD; e++) u[e] = beta * (v[e] - r[e]), o[e] = 0;
  for (int d = 0; d < kD; d++) {
    const double kd = k[d] / std::sqrt(kk), qd = q[d] / std::sqrt(qq) * c.scale;
    for (int e = 0; e < kD; e++) o[e] += (s[d * kD + e] += kd * u[e]) * qd;
  }
}

template <class F>
void parallel(int n, F f) {
  std::atomic<int> next = 0;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::max(1u, std::thread::hardware_concurrency()); t++)
    threads.emplace_back([&] {
      for (int i; (i = next++) < n;) f(i);
    });
  for (auto& t : threads) t.join();
}

inline Result reference(const Case& c) {
  Result r{std::vector<double>(c.N() * c.H * kD), std::vector<double>(c.state.begin(), c.state.end())};
  parallel(c.B() * c.H, [&](int item) {
    const int b = item / c.H, h = item % c.H;
    for (int64_t n = c.start[b]; n < c.start[b + 1]; n++) {
      double q[kD], k[kD], v[kD], z[kD];
      const size_t at = (n * c.H + h) * kD;
      for (int d = 0; d < kD; d++) {
        q[d] = __bfloat162float(c.q[at + d]), k[d] = __bfloat162float(c.k[at + d]);
        v[d] = __bfloat162float(c.v[at + d]), z[d] = __bfloat162float(c.z[at + d]);
      }
      const double beta = 1 / (1 + std::exp(-static_cast<double>(__bfloat162float(c.beta[n * c.H + h]))));
      reference_token(c, h, q, k, v, z, beta, &r.state[static_cast<size_t>(item) * kD * kD], &r.out[at]);
    }
  });
  return r;
}

// A case on the device and its prefill. Slots of the pool are permuted, so that an index error shows.
struct DeviceCase {
  DeviceArray<bf16> q, k, v, z, beta, out;
  DeviceArray<float> a_log, dt_bias, state;
  DeviceArray<int64_t> start64;
  DeviceArray<int32_t> start32, slots;
  DeviceArray<char> workspace;
  KdaPrefillSm90 args;

  explicit DeviceCase(const Case& c)
      : q(c.q),
        k(c.k),
        v(c.v),
        z(c.z),
        beta(c.beta),
        out(c.v.size()),
        a_log(c.a_log),
        dt_bias(c.dt_bias),
        state(c.state.size()),
        start64(c.start),
        start32(std::vector<int32_t>(c.start.begin(), c.start.end())),
        slots(slot_list(c.B())),
        workspace(kda_prefill_sm90_workspace_bytes({.n_sequences = c.B(), .n_heads = c.H, .n_tokens = c.N()})) {
    args = {.q = q.get(),
            .k = k.get(),
            .v = v.get(),
            .z = z.get(),
            .beta = beta.get(),
            .out = out.get(),
            .token_stride = static_cast<int64_t>(c.H) * kD,
            .seq_start = start32.get(),
            .seq_start_is_64 = false,
            .n_sequences = c.B(),
            .n_heads = c.H,
            .n_tokens = c.N(),
            .state = state.get(),
            .state_in = slots.get(),
            .state_out = slots.get(),
            .scale = c.scale,
            .gate = {a_log.get(), dt_bias.get(), c.gate, -5.f}};
    reset(c);
  }
  static std::vector<int32_t> slot_list(int B) {
    std::vector<int32_t> s(B);
    for (int b = 0; b < B; b++) s[b] = B - 1 - b;
    return s;
  }
  static std::vector<float> permuted(const std::vector<float>& s, int B) {
    std::vector<float> p(s.size());
    const size_t one = B ? s.size() / B : 0;
    for (int b = 0; b < B; b++) std::copy_n(s.begin() + b * one, one, p.begin() + (B - 1 - b) * one);
    return p;
  }
  void reset(const Case& c) {
    state.copy_from(permuted(c.state, c.B()));
    out.poison();
    workspace.poison();
  }
  void run() { LINNET_CUDA_OK(kda_prefill_sm90(args, workspace.get(), stream())); }
};

}  // namespace linnet::ops::sm90_check
