// Inputs of the plain recurrence on Hopper for its check and its benchmark, and its definition in double.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_recurrent.h"
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"

namespace linnet::ops::sm90_check {

// What a call of the recurrence is made of. lengths: of the sequences; all equal and no_starts: without seq_start.
struct RecurrentOptions {
  std::vector<int64_t> lengths = {1};
  int K = 128, V = 128, Hk = 2, H = 2;
  KdaType type = KdaType::bf16, g_type = KdaType::bf16, beta_type = KdaType::bf16, state_type = KdaType::f32;
  KdaRecurrentGate gate = KdaRecurrentGate::softplus;
  bool normalize = true, logits = true, per_value = false, v_first = false, no_starts = false, no_state = false;
  float beta_max = 1;
  int B() const { return static_cast<int>(lengths.size()); }
  int64_t N() const {
    int64_t n = 0;
    for (const int64_t l : lengths) n += l;
    return n;
  }
  size_t one() const { return static_cast<size_t>(K) * V; }  // elements of a state
};

inline size_t bytes_of(KdaType type) { return type == KdaType::f32 ? 4 : 2; }
inline float value_at(const void* p, KdaType type, size_t i) {
  if (type == KdaType::f32) return static_cast<const float*>(p)[i];
  if (type == KdaType::f16) return __half2float(static_cast<const __half*>(p)[i]);
  return __bfloat162float(static_cast<const bf16*>(p)[i]);
}
inline void set_value(void* p, KdaType type, size_t i, float x) {
  if (type == KdaType::f32) static_cast<float*>(p)[i] = x;
  else if (type == KdaType::f16) static_cast<__half*>(p)[i] = __float2half_rn(x);
  else static_cast<bf16*>(p)[i] = __float2bfloat16_rn(x);
}

// Numbers in one of the types.
struct Typed {
  KdaType type;
  std::vector<char> bytes;
  size_t size() const { return bytes.size() / bytes_of(type); }
  float operator[](size_t i) const { return value_at(bytes.data(), type, i); }
};
template <class F>
Typed typed(KdaType type, size_t n, F next) {
  Typed x{type, std::vector<char>(n * bytes_of(type))};
  for (size_t i = 0; i < n; i++) set_value(x.bytes.data(), type, i, next());
  return x;
}

struct RecurrentCase {
  RecurrentOptions o;
  std::vector<int64_t> start;
  Typed q, k, v, g, beta, state;  // state [B, H, ..] as state_v_first says
  std::vector<float> a_log, dt_bias;
  float scale;

  RecurrentCase(const RecurrentOptions& options, unsigned seed) : o(options), start{0}, scale(1 / std::sqrt(o.K)) {
    for (const int64_t n : o.lengths) start.push_back(start.back() + n);
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    std::uniform_real_distribution<float> uniform;
    const size_t N = o.N();
    const auto draw = [&] { return normal(rng); };
    const float size = o.normalize ? 1 : scale;  // keys of norm about 1
    const auto draw_key = [&] { return size * normal(rng); };
    const auto draw_gate = [&] { return o.gate == KdaRecurrentGate::log_decay ? -0.3f * uniform(rng) : normal(rng); };
    const auto draw_beta = [&] { return o.logits ? 1.5f * normal(rng) : uniform(rng); };
    q = typed(o.type, N * o.Hk * o.K, draw_key);
    k = typed(o.type, N * o.Hk * o.K, draw_key);
    v = typed(o.type, N * o.H * o.V, draw);
    g = typed(o.g_type, N * o.H * o.K, draw_gate);
    beta = typed(o.beta_type, N * o.H * (o.per_value ? o.V : 1), draw_beta);
    state = typed(o.state_type, o.B() * o.H * o.one(), [&] { return o.no_state ? 0.f : 0.3f * normal(rng); });
    a_log.resize(o.H);
    dt_bias.resize(o.H * o.K);
    for (auto& a : a_log) a = std::log(1 + 3 * uniform(rng));
    for (auto& b : dt_bias) b = -3 + normal(rng);
  }
  double log_decay(int h, int d, double x) const {
    if (o.gate == KdaRecurrentGate::log_decay) return x;
    x += dt_bias[h * o.K + d];
    const double rate = std::exp(static_cast<double>(a_log[h]));
    if (o.gate == KdaRecurrentGate::lower_bound) return -5 / (1 + std::exp(-rate * x));
    return -rate * (x > 40 ? x : std::log1p(std::exp(x)));
  }
  size_t element(int d, int e) const {
    return o.v_first ? e * static_cast<size_t>(o.K) + d : d * static_cast<size_t>(o.V) + e;
  }

  // One token of value head h: s as it lies, o [V].
  void token(int64_t n, int h, double* s, double* out) const {
    const size_t key = (n * o.Hk + h / (o.H / o.Hk)) * o.K, own = n * o.H + h;
    double qq = 1e-6, kk = 1e-6;
    for (int d = 0; d < o.K; d++) qq += 1. * q[key + d] * q[key + d], kk += 1. * k[key + d] * k[key + d];
    const double q_norm = scale / (o.normalize ? std::sqrt(qq) : 1), k_norm = 1 / (o.normalize ? std::sqrt(kk) : 1);
    std::vector<double> read(o.V);
    for (int d = 0; d < o.K; d++) {
      const double decay = std::exp(log_decay(h, d, g[own * o.K + d])), kd = k[key + d] * k_norm;
      for (int e = 0; e < o.V; e++) read[e] += (s[element(d, e)] *= decay) * kd;
    }
    for (int e = 0; e < o.V; e++) {
      const double b = beta[o.per_value ? own * o.V + e : own];
      const double u = (o.logits ? o.beta_max / (1 + std::exp(-b)) : b) * (v[own * o.V + e] - read[e]);
      out[e] = 0;
      for (int d = 0; d < o.K; d++) out[e] += (s[element(d, e)] += k[key + d] * k_norm * u) * q[key + d] * q_norm;
    }
  }
};

// The definition: outputs [N, H, V]; the states after each token of each sequence, [N, H, ..], and the last ones [B, H, ..].
struct RecurrentResult {
  std::vector<double> out, states, last;
};
inline RecurrentResult reference(const RecurrentCase& c, bool all_states) {
  const auto& o = c.o;
  const size_t one = o.one();
  RecurrentResult r;
  r.out.resize(o.N() * o.H * o.V);
  r.last.resize(o.B() * o.H * one);
  if (all_states) r.states.resize(o.N() * o.H * one);
  for (size_t i = 0; i < r.last.size(); i++) r.last[i] = c.state[i];
  parallel(o.B() * o.H, [&](int item) {
    const int b = item / o.H, h = item % o.H;
    double* const s = &r.last[item * one];
    for (int64_t n = c.start[b]; n < c.start[b + 1]; n++) {
      c.token(n, h, s, &r.out[(n * o.H + h) * o.V]);
      if (all_states) std::copy_n(s, one, &r.states[(n * o.H + h) * one]);
    }
  });
  return r;
}

// A case on the device. States in place, in a pool with the order of the sequences.
struct RecurrentOnDevice {
  DeviceArray<char> q, k, v, g, beta, state, out;
  DeviceArray<float> a_log, dt_bias;
  DeviceArray<int64_t> start;
  KdaRecurrentSm90 args;

  explicit RecurrentOnDevice(const RecurrentCase& c)
      : q(c.q.bytes),
        k(c.k.bytes),
        v(c.v.bytes),
        g(c.g.bytes),
        beta(c.beta.bytes),
        state(c.state.bytes),
        out(c.o.N() * c.o.H * c.o.V * bytes_of(c.o.type)),
        a_log(c.a_log),
        dt_bias(c.dt_bias),
        start(c.start) {
    const auto& o = c.o;
    args = {.q = q.get(),
            .k = k.get(),
            .v = v.get(),
            .g = g.get(),
            .beta = beta.get(),
            .out = out.get(),
            .a_log = a_log.get(),
            .dt_bias = dt_bias.get(),
            .seq_start = o.no_starts ? nullptr : start.get(),
            .state_in = o.no_state ? nullptr : state.get(),
            .state_out = state.get(),
            .n_tokens = o.no_starts ? o.lengths[0] : 0,
            .n_sequences = o.B(),
            .n_qk_heads = o.Hk,
            .n_heads = o.H,
            .k_dim = o.K,
            .v_dim = o.V,
            .type = o.type,
            .g_type = o.g_type,
            .beta_type = o.beta_type,
            .gate = o.gate,
            .scale = c.scale,
            .lower_bound = -5,
            .normalize = o.normalize,
            .beta_logits = o.logits,
            .beta_max = o.beta_max,
            .beta_per_value = o.per_value,
            .state_v_first = o.v_first,
            .seq_start_is_64 = 1,
            .state_type = o.state_type};
    out.poison();
  }
};

}  // namespace linnet::ops::sm90_check
