// Inputs of a KDA prefill with options on Hopper, and their definition in double on the CPU, which knows nothing of chunks.
#pragma once

#include <cuda_fp16.h>

#include "ops/linear_attn/linear_attn_sm90_case.cuh"

namespace linnet::ops::sm90_check {

struct Options {
  KdaGate gate = KdaGate::softplus;
  KdaInput input = KdaInput::bf16;
  int n_qk_heads = 0;  // 0: as many as heads
  bool normalize = true, beta_values = false, strided = false;
  int head_dim = kD;
};
constexpr const char* kGateNames[] = {"softplus", "lower_bound", "log_decay", "head_softplus", "head_log_decay"};

inline bool is_head_gate(KdaGate g) { return g >= KdaGate::head_softplus; }
inline bool is_log_decay(KdaGate g) { return g == KdaGate::log_decay || g == KdaGate::head_log_decay; }

// Sixteen bits of x in an input's type, and what they are worth.
inline uint16_t to_bits(float x, KdaInput input) {
  return input == KdaInput::f16 ? __half_as_ushort(__float2half(x)) : __bfloat16_as_ushort(__float2bfloat16(x));
}
inline float to_float(uint16_t bits, KdaInput input) {
  return input == KdaInput::f16 ? __half2float(__ushort_as_half(bits)) : __bfloat162float(__ushort_as_bfloat16(bits));
}

// All values are such that the inputs' type holds them. Dense.
struct OptionCase {
  Options options;
  int H = 1, Hqk = 1;  // heads of D()
  std::vector<int64_t> start;
  std::vector<float> q, k, v, z, beta;  // z: [N, H, D] or [N, H]; beta: values or logits
  std::vector<float> a_log, dt_bias, state;
  float scale;
  int B() const { return static_cast<int>(start.size()) - 1; }
  int64_t N() const { return start.back(); }
  int D() const { return options.head_dim; }
  int z_width() const { return is_head_gate(options.gate) ? 1 : D(); }
};

inline OptionCase make_option_case(const Options& o, const std::vector<int64_t>& lengths, int H, unsigned seed) {
  OptionCase c;
  c.options = o;
  c.H = H;
  const int D = o.head_dim;
  c.scale = 1 / std::sqrt(static_cast<float>(D));
  c.Hqk = o.n_qk_heads ? o.n_qk_heads : H;
  c.start.push_back(0);
  for (int64_t n : lengths) c.start.push_back(c.start.back() + n);
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  const auto rounded = [&](float x) { return to_float(to_bits(x, o.input), o.input); };
  const auto fill = [&](std::vector<float>& x, int64_t n, float sigma) {
    x.resize(n);
    for (auto& e : x) e = rounded(sigma * normal(rng));
  };
  fill(c.q, c.N() * c.Hqk * D, 1);
  fill(c.k, c.N() * c.Hqk * D, 1);
  fill(c.v, c.N() * H * D, 1);
  if (!o.normalize) {  // norms of 3 and 0.8: normalising them would show
    for (auto* x : {&c.q, &c.k}) {
      for (size_t row = 0; row < x->size(); row += D) {
        float square = 1e-6f;
        for (int d = 0; d < D; d++) square += (*x)[row + d] * (*x)[row + d];
        const float factor = (x == &c.q ? 3.f : 0.8f) / std::sqrt(square);
        for (int d = 0; d < D; d++) (*x)[row + d] = rounded((*x)[row + d] * factor);
      }
    }
  }
  fill(c.z, c.N() * H * c.z_width(), is_head_gate(o.gate) ? 2.f : 0.5f);
  if (is_log_decay(o.gate)) {  // slow, none, ordinary and complete
    for (auto& z : c.z) {
      const float u = uniform(rng);
      z = u < 0.05f   ? 0.f
          : u < 0.07f ? -1000.f
          : u < 0.08f ? -INFINITY
          : u < 0.3f  ? -1e-4f * uniform(rng)
                      : -uniform(rng);
    }
  }
  fill(c.beta, c.N() * H, 1.5f);
  if (o.beta_values) {
    for (auto& b : c.beta) b = 2 * uniform(rng);  // f32
  }
  c.a_log.resize(H);
  c.dt_bias.resize(static_cast<size_t>(H) * c.z_width());
  for (auto& a : c.a_log) a = std::log(1 + 3 * uniform(rng));
  for (auto& b : c.dt_bias) b = o.gate == KdaGate::lower_bound ? 0.f : -4 + 2 * normal(rng);
  c.state.resize(static_cast<size_t>(c.B()) * H * D * D);
  for (auto& s : c.state) s = 0.3f * normal(rng);
  return c;
}

inline double log_decay(const OptionCase& c, int64_t token, int h, int d) {
  const bool head = is_head_gate(c.options.gate);
  const double z = c.z[head ? token * c.H + h : (token * c.H + h) * c.D() + d];
  if (is_log_decay(c.options.gate)) return z;
  const double x = z + c.dt_bias[head ? h : h * c.D() + d], rate = std::exp(static_cast<double>(c.a_log[h]));
  return c.options.gate == KdaGate::lower_bound ? -5.0 / (1 + std::exp(-rate * x)) : -rate * std::log1p(std::exp(x));
}

inline Result reference(const OptionCase& c) {
  const int D = c.D();
  Result r{std::vector<double>(c.N() * c.H * D), std::vector<double>(c.state.begin(), c.state.end())};
  parallel(c.B() * c.H, [&](int item) {
    const int b = item / c.H, h = item % c.H, group = c.H / c.Hqk;
    double* const s = &r.state[static_cast<size_t>(item) * D * D];
    for (int64_t n = c.start[b]; n < c.start[b + 1]; n++) {
      const float* const q = &c.q[(n * c.Hqk + h / group) * D];
      const float* const k = &c.k[(n * c.Hqk + h / group) * D];
      const float* const v = &c.v[(n * c.H + h) * D];
      double* const o = &r.out[(n * c.H + h) * D];
      const double given = c.beta[n * c.H + h], beta = c.options.beta_values ? given : 1 / (1 + std::exp(-given));
      double q_norm = 1, k_norm = 1;
      if (c.options.normalize) {
        double qq = 1e-6, kk = 1e-6;
        for (int d = 0; d < D; d++) qq += static_cast<double>(q[d]) * q[d], kk += static_cast<double>(k[d]) * k[d];
        q_norm = std::sqrt(qq), k_norm = std::sqrt(kk);
      }
      double read[kD] = {};
      for (int d = 0; d < D; d++) {
        const double decay = std::exp(log_decay(c, n, h, d));
        for (int e = 0; e < D; e++) read[e] += (s[d * D + e] *= decay) * k[d] / k_norm;
      }
      for (int d = 0; d < D; d++) {
        for (int e = 0; e < D; e++)
          o[e] += (s[d * D + e] += k[d] / k_norm * beta * (v[e] - read[e])) * q[d] / q_norm * c.scale;
      }
    }
  });
  return r;
}

// One tensor of rows on the device, [N, heads, D] of 16 bits; the gaps of its stride are NaN.
struct Rows {
  int64_t stride, width;
  DeviceArray<uint16_t> data;
  Rows(const std::vector<float>& x, int64_t N, int64_t row_width, int64_t gap, KdaInput input)
      : stride(row_width + gap), width(row_width), data(static_cast<size_t>(N * (row_width + gap))) {
    std::vector<uint16_t> bits(data.size(), 0xffff);
    for (int64_t n = 0; n < N && !x.empty(); n++)
      for (int64_t i = 0; i < width; i++) bits[n * stride + i] = to_bits(x[n * width + i], input);
    data.copy_from(bits);
  }
  // Dense again; gaps_kept: no gap was written.
  std::vector<float> host(KdaInput input, bool& gaps_kept) const {
    const auto bits = data.host();
    std::vector<float> x;
    for (size_t i = 0; i < bits.size(); i++) {
      if (static_cast<int64_t>(i) % stride < width) x.push_back(to_float(bits[i], input));
      else gaps_kept = gaps_kept && bits[i] == 0xffff;
    }
    return x;
  }
};

inline std::vector<float> with_gaps(const std::vector<float>& x, int64_t width, int64_t gap) {
  std::vector<float> y;
  for (size_t i = 0; i < x.size(); i += width) {
    y.insert(y.end(), x.begin() + i, x.begin() + i + width);
    y.insert(y.end(), gap, NAN);
  }
  return y;
}

// On the device. q and k share no buffer: an index into the wrong one shows.
struct OptionDevice {
  Rows q, k, v, z16, out;
  DeviceArray<float> z32, beta32, a_log, dt_bias, state;
  DeviceArray<uint16_t> beta16;
  DeviceArray<int64_t> start;
  DeviceArray<int32_t> slots;
  KdaPrefillSm90 args;

  explicit OptionDevice(const OptionCase& c)
      : q(c.q, c.N(), c.Hqk * c.D(), c.options.strided ? 2 * c.D() : 0, c.options.input),
        k(c.k, c.N(), c.Hqk * c.D(), c.options.strided ? 2 * c.D() : 0, c.options.input),
        v(c.v, c.N(), c.H * c.D(), c.options.strided ? 24 : 0, c.options.input),
        z16(c.z, c.N(), c.H * c.z_width(), gap_of_z(c), c.options.input),
        out({}, c.N(), c.H * c.D(), c.options.strided ? 40 : 0, c.options.input),
        z32(with_gaps(c.z, c.H * c.z_width(), gap_of_z(c))),
        beta32(c.beta),
        a_log(c.a_log),
        dt_bias(c.dt_bias),
        state(DeviceCase::permuted(c.state, c.B())),
        beta16(bits_of(c.beta, c.options.input)),
        start(c.start),
        slots(DeviceCase::slot_list(c.B())) {
    const Options& o = c.options;
    args = {.q = q.data.get(),
            .k = k.data.get(),
            .v = v.data.get(),
            .z = is_log_decay(o.gate) ? static_cast<const void*>(z32.get()) : z16.data.get(),
            .beta = o.beta_values ? nullptr : beta16.get(),
            .out = out.data.get(),
            .token_stride = v.stride,
            .seq_start = start.get(),
            .seq_start_is_64 = true,
            .n_sequences = c.B(),
            .n_heads = c.H,
            .n_tokens = c.N(),
            .state = state.get(),
            .state_in = slots.get(),
            .state_out = slots.get(),
            .scale = c.scale,
            .gate = {is_log_decay(o.gate) ? nullptr : a_log.get(), is_log_decay(o.gate) ? nullptr : dt_bias.get(),
                     o.gate, -5.f},
            .beta_value = o.beta_values ? beta32.get() : nullptr,
            .qk_stride = o.strided || c.Hqk != c.H ? q.stride : 0,
            .z_stride = o.strided && !is_head_gate(o.gate) ? z16.stride : 0,
            .out_stride = o.strided ? out.stride : 0,
            .n_qk_heads = o.n_qk_heads,
            .normalize_qk = o.normalize,
            .input = o.input,
            .head_dim = o.head_dim == kD ? 0 : o.head_dim};
  }
  static int64_t gap_of_z(const OptionCase& c) { return c.options.strided && !is_head_gate(c.options.gate) ? 8 : 0; }
  static std::vector<uint16_t> bits_of(const std::vector<float>& x, KdaInput input) {
    std::vector<uint16_t> bits;
    for (const float e : x) bits.push_back(to_bits(e, input));
    return bits;
  }
  void reset(const OptionCase& c) {
    state.copy_from(DeviceCase::permuted(c.state, c.B()));
    out.data.poison();
  }
};

}  // namespace linnet::ops::sm90_check
