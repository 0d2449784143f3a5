// Tokens, pools and the definition in double of decode steps on Hopper, for the checks of decode and of verify.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"

namespace linnet::ops::sm90_check {

// What a step is made of. k: tokens of each sequence.
struct StepOptions {
  int B = 5, H = 3, k = 3, D = 128;
  Draw draw = Draw::trained;  // bounded: with that gate
  KdaStateType state_type = KdaStateType::f32;
  bool head_gate = false, silu = false;
  size_t width() const { return static_cast<size_t>(H) * D; }
  size_t states() const { return B * width() * D; }
  size_t state_bytes() const { return states() * (state_type == KdaStateType::f32 ? 4 : 2); }
  KdaGate gate() const {
    return head_gate ? KdaGate::head_softplus : draw == Draw::bounded ? KdaGate::lower_bound : KdaGate::softplus;
  }
};

inline std::string show(const StepOptions& o) {
  return std::to_string(o.B) + " sequences x " + std::to_string(o.H) + " heads of " + std::to_string(o.D) + ", " +
         kDrawNames[static_cast<int>(o.draw)] + (o.state_type == KdaStateType::bf16 ? ", bf16 states" : "") +
         (o.head_gate ? ", gate of the head" : "") + (o.silu ? ", SiLU of the output gate" : "");
}

inline std::vector<float> floats(size_t n, unsigned seed, float mean, float sigma) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(mean, sigma);
  std::vector<float> x(n);
  for (auto& e : x) e = normal(rng);
  return x;
}
inline std::vector<bf16> halves(size_t n, unsigned seed, float sigma) { return rounded(floats(n, seed, 0, sigma)); }

// States as they lie in a pool of this type, and back.
inline std::vector<char> pool_of(const std::vector<float>& s, KdaStateType type) {
  const std::vector<bf16> half = rounded(s);
  const char* const from =
      type == KdaStateType::f32 ? reinterpret_cast<const char*>(s.data()) : reinterpret_cast<const char*>(half.data());
  return {from, from + s.size() * (type == KdaStateType::f32 ? 4 : 2)};
}
inline std::vector<float> states_of(const std::vector<char>& pool, KdaStateType type) {
  std::vector<float> s(pool.size() / (type == KdaStateType::f32 ? 4 : 2));
  for (size_t i = 0; i < s.size(); i++)
    s[i] = type == KdaStateType::f32 ? reinterpret_cast<const float*>(pool.data())[i]
                                     : __bfloat162float(reinterpret_cast<const bf16*>(pool.data())[i]);
  return s;
}

// k tokens of B sequences, and the pools that they meet. Every fourth sequence is padding; slots are in reverse.
struct StepCase {
  StepOptions o;
  std::vector<int32_t> slots;
  std::vector<bf16> window, qkv, z, beta, gate;
  std::vector<float> state, conv, norm, a_log, dt_bias;  // state: what the pool can hold
  float scale;
  DeviceArray<float> d_conv, d_norm, d_a_log, d_dt_bias;
  DeviceArray<bf16> d_window, d_qkv, d_z, d_beta, d_gate, out;
  DeviceArray<char> d_state;
  DeviceArray<int32_t> d_slots;

  explicit StepCase(const StepOptions& options)
      : o(options),
        slots(o.B),
        window(halves(o.B * 9 * o.width(), 1, 1)),
        qkv(halves(o.B * o.k * 3 * o.width(), 2, 1)),
        z(halves(o.B * o.k * (o.head_gate ? o.H : o.width()), 3, 0.5f)),
        beta(halves(static_cast<size_t>(o.B) * o.k * o.H, 4, 1.5f)),
        gate(halves(o.B * o.k * o.width(), 5, 1)),
        state(states_of(pool_of(floats(o.states(), 50 + o.k, 0, 0.3f), o.state_type), o.state_type)),
        conv(floats(3 * o.width() * 4, 6, 0, 0.5f)),
        norm(floats(o.D, 7, 1, 0.1f)),
        scale(1 / std::sqrt(static_cast<float>(o.D))),
        d_conv(conv),
        d_norm(norm),
        d_a_log(o.H),
        d_dt_bias(o.width()),
        d_window(window),
        d_qkv(qkv),
        d_z(z),
        d_beta(beta),
        d_gate(gate),
        out(o.B * o.k * o.width()),
        d_state(pool_of(state, o.state_type)),
        d_slots(o.B) {
    const Case c = make_case(o.draw, {0}, o.H, 50 + o.k);  // its gates, for as many channels as there are
    a_log = c.a_log;
    dt_bias.assign(c.dt_bias.begin(), c.dt_bias.begin() + o.width());
    d_a_log.copy_from(a_log);
    d_dt_bias.copy_from(dt_bias);
    for (int b = 0; b < o.B; b++) slots[b] = b % 4 == 2 ? -1 : o.B - 1 - b;
    d_slots.copy_from(slots);
    out.poison();
  }
  void reset() {
    d_state.copy_from(pool_of(state, o.state_type));
    d_window.copy_from(window);
    out.poison();
  }
  KdaGateArgs gate_args() const { return {d_a_log.get(), d_dt_bias.get(), o.gate(), -5.f}; }

  // One decode step of token t of every sequence; its outputs.
  std::vector<bf16> decode(int t, bool settled = false) {
    const auto of_token = [&](const std::vector<bf16>& x) {
      const size_t n = x.size() / o.B / o.k;
      std::vector<bf16> y(o.B * n);
      for (int b = 0; b < o.B; b++)
        std::copy_n(x.begin() + (static_cast<size_t>(b) * o.k + t) * n, n, y.begin() + b * n);
      return y;
    };
    DeviceArray<bf16> qkv_t(of_token(qkv)), z_t(of_token(z)), beta_t(of_token(beta)), gate_t(of_token(gate)),
        out_t(o.B * o.width());
    out_t.poison();
    const KdaDecodeSm90 a = {.qkv = qkv_t.get(),
                             .z = z_t.get(),
                             .beta = beta_t.get(),
                             .out_gate = gate_t.get(),
                             .conv_weight = d_conv.get(),
                             .norm_weight = d_norm.get(),
                             .out = out_t.get(),
                             .conv_state = d_window.get(),
                             .state = d_state.get(),
                             .slot = d_slots.get(),
                             .n_sequences = o.B,
                             .n_heads = o.H,
                             .scale = scale,
                             .gate = gate_args(),
                             .pools_settled = settled,
                             .state_type = o.state_type,
                             .out_gate_silu = o.silu,
                             .head_dim = o.D == kD ? 0 : o.D};
    LINNET_CUDA_OK(kda_decode_sm90(a, stream()));
    return out_t.host();
  }
};

// The definition of steps in double, from a pool and its windows. A bf16 pool is rounded after each token, as decode does it.
class StepReference {
 public:
  explicit StepReference(const StepCase& c) : c_(c), window_(c.window), state_(c.state.begin(), c.state.end()) {}
  // The outputs [B, H, D] of token t; zeros for padding.
  std::vector<double> step(int t) {
    const StepOptions& o = c_.o;
    std::vector<double> out(o.B * o.width());
    parallel(o.B * o.H, [&](int item) {
      if (c_.slots[item / o.H] >= 0) head_step(item / o.H, item % o.H, t, &out[static_cast<size_t>(item) * o.D]);
    });
    return out;
  }
  const std::vector<double>& states() const { return state_; }  // as they lie in the pool
  const std::vector<bf16>& windows() const { return window_; }

 private:
  double convolved(int b, int h, int t, int stream, int d) {
    const StepOptions& o = c_.o;
    const size_t channel = stream * o.width() + h * o.D + d;
    bf16* const past = &window_[(c_.slots[b] * 3 * o.width() + channel) * 3];
    const bf16 now = c_.qkv[(static_cast<size_t>(b) * o.k + t) * 3 * o.width() + channel];
    const float* const w = &c_.conv[channel * 4];
    double y = static_cast<double>(w[3]) * __bfloat162float(now);
    for (int j = 0; j < 3; j++) y += static_cast<double>(w[j]) * __bfloat162float(past[j]);
    past[0] = past[1], past[1] = past[2], past[2] = now;
    return __bfloat162float(__float2bfloat16(static_cast<float>(y / (1 + std::exp(-y)))));
  }
  double decay(size_t token, int h, int d) const {
    const StepOptions& o = c_.o;
    const size_t at = o.head_gate ? token * o.H + h : (token * o.H + h) * o.D + d;
    const double x = __bfloat162float(c_.z[at]) + static_cast<double>(c_.dt_bias[o.head_gate ? h : h * o.D + d]);
    const double rate = std::exp(static_cast<double>(c_.a_log[h]));
    if (o.gate() == KdaGate::lower_bound) return std::exp(-5 / (1 + std::exp(-rate * x)));
    return std::exp(-rate * (x > 40 ? x : std::log1p(std::exp(x))));
  }
  void head_step(int b, int h, int t, double* out) {
    const StepOptions& o = c_.o;
    const int D = o.D;
    const size_t token = static_cast<size_t>(b) * o.k + t;
    std::vector<double> q(D), k(D), v(D), read(D);
    double qq = 1e-6, kk = 1e-6, mean = 0;
    for (int d = 0; d < D; d++) {
      q[d] = convolved(b, h, t, 0, d), k[d] = convolved(b, h, t, 1, d), v[d] = convolved(b, h, t, 2, d);
      qq += q[d] * q[d], kk += k[d] * k[d];
    }
    double* const s = &state_[(static_cast<size_t>(c_.slots[b]) * o.H + h) * D * D];
    for (int d = 0; d < D; d++) {
      const double f = decay(token, h, d);
      for (int e = 0; e < D; e++) read[e] += (s[d * D + e] *= f) * k[d] / std::sqrt(kk);
    }
    const double beta = 1 / (1 + std::exp(-static_cast<double>(__bfloat162float(c_.beta[token * o.H + h]))));
    for (int e = 0; e < D; e++) {
      const double u = beta * (v[e] - read[e]);
      out[e] = 0;
      for (int d = 0; d < D; d++) {
        double& x = s[d * D + e];
        out[e] += (x += k[d] / std::sqrt(kk) * u) * q[d] / std::sqrt(qq) * c_.scale;
        if (o.state_type == KdaStateType::bf16) x = __bfloat162float(__float2bfloat16(static_cast<float>(x)));
      }
      mean += out[e] * out[e] / D;
    }
    for (int e = 0; e < D; e++) {
      const double x = __bfloat162float(c_.gate[(token * o.H + h) * D + e]), g = 1 / (1 + std::exp(-x));
      out[e] *= c_.norm[e] / std::sqrt(mean + 1e-5) * (o.silu ? x * g : g);
    }
  }

  const StepCase& c_;
  std::vector<bf16> window_;
  std::vector<double> state_;
};

}  // namespace linnet::ops::sm90_check
