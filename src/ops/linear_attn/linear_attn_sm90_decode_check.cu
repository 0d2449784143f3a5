// Checks the Hopper KDA decode kernel against the definition in double, and in bits: determinism, independence of the batch, padding. Modes:
// `bench` then times it (linear_attn_sm90_decode_bench.cu); `sanitize` is short, for compute-sanitizer.
#include "ops/linear_attn/linear_attn_sm90_decode_case.cuh"

namespace linnet::ops::sm90_check {

void bench_decode(int argc, char** argv);

namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }

// Sequences of 1..n_longest tokens through prefill, then three tokens of decode each; the layer's convolution on the host for the prefill.
// bf16 states: decode's definition begins with what prefill has left, and rounds after each token.
void check_decode(int n_longest, int H, KdaStateType type = KdaStateType::f32) {
  constexpr int kSteps = 3;
  const int width = H * kD;
  for (const Draw draw : {Draw::trained, Draw::mixed, Draw::bounded}) {
    std::vector<int64_t> lengths;
    for (int n = 1; n <= n_longest; n++) lengths.push_back(n);
    Case c = make_case(draw, lengths, H, 31, true);
    const int B = c.B();
    std::mt19937 rng(5);
    std::normal_distribution<float> normal;
    std::vector<float> conv(3 * width * 4), norm(kD);
    for (auto& w : conv) w = 0.5f * normal(rng);
    for (auto& w : norm) w = 1 + 0.1f * normal(rng);
    std::vector<bf16> window(static_cast<size_t>(B) * 3 * width * 3), raw[kSteps], gate[kSteps], z[kSteps],
        beta[kSteps];
    // raw inputs of a stream: history[b][stream][token][channel]
    std::vector<std::vector<float>> history(B * 3);
    for (int b = 0; b < B; b++) {
      for (int stream = 0; stream < 3; stream++) {
        auto& x = history[b * 3 + stream];
        x.resize((lengths[b] + kSteps) * width);
        for (auto& e : x) e = __bfloat162float(__float2bfloat16(normal(rng)));
      }
    }
    const auto convolved = [&](int b, int stream, int64_t t, int channel) {
      double y = 0;
      for (int j = 0; j < 4; j++) {
        const int64_t at = t - 3 + j;
        if (at >= 0)
          y += static_cast<double>(conv[(stream * width + channel) * 4 + j]) *
               history[b * 3 + stream][at * width + channel];
      }
      return static_cast<double>(__bfloat162float(__float2bfloat16(static_cast<float>(silu(y)))));
    };
    std::vector<bf16>* inputs[3] = {&c.q, &c.k, &c.v};
    for (int b = 0; b < B; b++) {
      const int slot = B - 1 - b;
      for (int stream = 0; stream < 3; stream++) {
        for (int ch = 0; ch < width; ch++) {
          for (int64_t t = 0; t < lengths[b]; t++)
            (*inputs[stream])[(c.start[b] + t) * width + ch] =
                __float2bfloat16(static_cast<float>(convolved(b, stream, t, ch)));
          for (int j = 0; j < 3; j++) {
            const int64_t at = lengths[b] - 3 + j;
            window[((static_cast<size_t>(slot) * 3 + stream) * width + ch) * 3 + j] =
                __float2bfloat16(at >= 0 ? history[b * 3 + stream][at * width + ch] : 0.f);
          }
        }
      }
    }
    DeviceCase d(c);
    DeviceArray<char> pool(pool_of(DeviceCase::permuted(c.state, B), type));
    d.args.state = pool.get();
    d.args.state_type = type;
    d.run();
    Result ref = reference(c);
    const auto states_now = [&] { return DeviceCase::permuted(states_of(pool.host(), type), B); };
    if (type == KdaStateType::bf16) {
      const std::vector<float> begin = states_now();
      const Error e = compare(begin, ref.state);
      verdict(e.finite && e.rms <= 0.005 + std::ldexp(1, -9),
              std::string("bf16 states of prefill, ") + kDrawNames[static_cast<int>(draw)] + ": " + show(e));
      ref.state.assign(begin.begin(), begin.end());
    }
    DeviceArray<float> d_conv(conv), d_norm(norm);
    DeviceArray<bf16> d_window(window);
    for (int step = 0; step < kSteps; step++) {
      std::vector<bf16> qkv(static_cast<size_t>(B) * 3 * width), zs(B * width), betas(B * H), gates(B * width);
      for (auto* x : {&zs, &betas, &gates})
        for (auto& e : *x) e = __float2bfloat16(0.5f * normal(rng));
      for (int b = 0; b < B; b++)
        for (int stream = 0; stream < 3; stream++)
          for (int ch = 0; ch < width; ch++)
            qkv[(static_cast<size_t>(b) * 3 + stream) * width + ch] =
                __float2bfloat16(history[b * 3 + stream][(lengths[b] + step) * width + ch]);
      DeviceArray<bf16> d_qkv(qkv), d_z(zs), d_beta(betas), d_gate(gates), d_out(static_cast<size_t>(B) * width);
      d_out.poison();
      const KdaDecodeSm90 args = {.qkv = d_qkv.get(),
                                  .z = d_z.get(),
                                  .beta = d_beta.get(),
                                  .out_gate = d_gate.get(),
                                  .conv_weight = d_conv.get(),
                                  .norm_weight = d_norm.get(),
                                  .out = d_out.get(),
                                  .conv_state = d_window.get(),
                                  .state = pool.get(),
                                  .slot = d.slots.get(),
                                  .n_sequences = B,
                                  .n_heads = H,
                                  .scale = c.scale,
                                  .gate = d.args.gate,
                                  .state_type = type};
      LINNET_CUDA_OK(kda_decode_sm90(args, stream()));
      std::vector<double> expected(static_cast<size_t>(B) * width);
      parallel(B * H, [&](int item) {
        const int b = item / H, h = item % H;
        double q[kD], k[kD], v[kD], zz[kD], o[kD], mean = 0;
        for (int e = 0; e < kD; e++) {
          const int ch = h * kD + e;
          q[e] = convolved(b, 0, lengths[b] + step, ch), k[e] = convolved(b, 1, lengths[b] + step, ch),
          v[e] = convolved(b, 2, lengths[b] + step, ch);
          zz[e] = __bfloat162float(zs[b * width + ch]);
        }
        reference_token(c, h, q, k, v, zz, 1 / (1 + std::exp(-static_cast<double>(__bfloat162float(betas[item])))),
                        &ref.state[static_cast<size_t>(item) * kD * kD], o);
        for (double x : o) mean += x * x / kD;
        for (int e = 0; e < kD; e++) {
          const double g = __bfloat162float(gates[b * width + h * kD + e]);
          expected[static_cast<size_t>(item) * kD + e] = o[e] / std::sqrt(mean + 1e-5) * norm[e] / (1 + std::exp(-g));
        }
      });
      if (type == KdaStateType::bf16)
        for (double& x : ref.state) x = __bfloat162float(__float2bfloat16(static_cast<float>(x)));
      const Error out = compare(d_out.host(), expected), state = compare(states_now(), ref.state);
      verdict(accept(out) && accept(state), std::string("prefill of 1..") + std::to_string(n_longest) + " tokens, " +
                                                std::to_string(H) + " heads, decode step " + std::to_string(step + 1) +
                                                ", " + kDrawNames[static_cast<int>(draw)] +
                                                (type == KdaStateType::bf16 ? ", bf16 states" : "") + ": out " +
                                                show(out) + ", state " + show(state));
    }
  }
}

// Steps of every build against the definition, from random pools; windows in bits. Outputs are rounded to bf16, half a unit in the last place at
// most. States: an activation that falls on the other side of a tie of bf16 is off by a whole unit, a few in a thousand of them in
// bf16 states, too.
void check_options() {
  for (const int D : {128, 64}) {
    for (const KdaStateType type : {KdaStateType::f32, KdaStateType::bf16}) {
      for (const auto& [draw, head_gate, silu] : {std::tuple{Draw::trained, false, false},
                                                  {Draw::bounded, false, false},
                                                  {Draw::mixed, false, true},
                                                  {Draw::trained, true, false},
                                                  {Draw::strong, true, true}}) {
        const StepOptions o = {.D = D, .draw = draw, .state_type = type, .head_gate = head_gate, .silu = silu};
        StepCase c(o);
        StepReference ref(c);
        Error worst = {0, 0, true}, state = worst;
        for (int t = 0; t < o.k; t++) {
          std::vector<bf16> out = c.decode(t, t == 1);
          for (int b = 0; b < o.B; b++)  // what padding has left is compared below
            if (c.slots[b] < 0) std::fill_n(out.begin() + b * o.width(), o.width(), __float2bfloat16(0.f));
          const Error e = compare(out, ref.step(t), D);
          worst = {std::max(worst.rms, e.rms), std::max(worst.worst_row, e.worst_row), worst.finite && e.finite};
          state = compare(states_of(c.d_state.host(), type), ref.states(), D);
        }
        const auto windows = c.d_window.host();
        const bool same = same_bits(windows, ref.windows(), windows.size());
        const double state_bound = type == KdaStateType::f32 ? 2e-4 : std::ldexp(1, -9);
        verdict(accept(worst) && worst.rms <= 3e-3 && accept(state) && state.rms <= state_bound && same,
                "steps of " + show(o) + ": out " + show(worst) + ", state " + show(state) +
                    (same ? "" : ", WINDOWS DIFFER"));
      }
    }
  }
}

// In bits: a step on a bf16 pool is that on the same states in f32, rounded to nearest even where they are written.
void check_rounding() {
  for (const int D : {128, 64}) {
    for (const bool head_gate : {false, true}) {
      StepOptions o = {.B = 9, .k = 1, .D = D, .state_type = KdaStateType::bf16, .head_gate = head_gate};
      StepCase half(o);
      o.state_type = KdaStateType::f32;
      StepCase full(o);
      full.d_state.copy_from(pool_of(half.state, KdaStateType::f32));
      const auto out = half.decode(0), expected = full.decode(0);
      const auto pool = half.d_state.host();
      const bool same = same_bits(out, expected, out.size()),
                 nearest = pool == pool_of(states_of(full.d_state.host(), KdaStateType::f32), KdaStateType::bf16);
      verdict(same && nearest, "a step of heads of " + std::to_string(D) + (head_gate ? ", gate of the head" : "") +
                                   " on a bf16 pool: outputs " + (same ? "as" : "NOT AS") + " on f32, states " +
                                   (nearest ? "rounded to nearest even" : "ROUNDED OTHERWISE"));
    }
  }
}

void check_refusals() {
  StepCase c({.B = 1, .H = 1, .k = 1});
  const KdaDecodeSm90 step = {.n_sequences = 1, .n_heads = 1, .gate = c.gate_args()};
  const auto answer = [&](auto change) {
    KdaDecodeSm90 a = step;
    change(a);
    return kda_decode_sm90(a, stream());
  };
  verdict(answer([](auto& a) { a.head_dim = 96; }) == cudaErrorNotSupported &&
              answer([](auto& a) { a.state_v_first = true; }) == cudaErrorNotSupported &&
              answer([](auto& a) { a.gate.gate = KdaGate::log_decay; }) == cudaErrorNotSupported &&
              answer([](auto& a) { a.n_heads = -1; }) == cudaErrorInvalidValue &&
              answer([](auto& a) { a.state_type = static_cast<KdaStateType>(2); }) == cudaErrorInvalidValue,
          "what is not built or not valid is refused");
}

// Decode of a batch with padding, from random states.
struct DecodeBatch {
  int B, H, D;
  KdaStateType type;
  std::vector<int32_t> slots;
  std::vector<bf16> window, in;
  std::vector<char> state;
  DeviceArray<float> conv, norm, a_log, dt_bias;
  DeviceArray<char> d_state;
  DeviceArray<bf16> d_window, d_in, out;
  DeviceArray<int32_t> d_slots;

  DecodeBatch(int B, int H, int D = kD, KdaStateType type = KdaStateType::f32)
      : B(B),
        H(H),
        D(D),
        type(type),
        slots(B),
        window(halves(static_cast<size_t>(B) * 9 * H * D, 9, 1)),
        in(halves(static_cast<size_t>(B) * 6 * H * D, 10, 1)),
        state(pool_of(floats(static_cast<size_t>(B) * H * D * D, 33, 0, 0.3f), type)),
        conv(std::vector<float>(3 * H * D * 4, 0.3f)),
        norm(std::vector<float>(D, 1.f)),
        a_log(floats(H, 11, 1, 0.5f)),
        dt_bias(floats(H * D, 12, -4, 1)),
        d_state(state),
        d_window(window.size()),
        d_in(in),
        out(static_cast<size_t>(B) * H * D),
        d_slots(B) {
    for (int b = 0; b < B; b++) slots[b] = b % 5 == 3 ? -1 : B - 1 - b;
    d_slots.copy_from(slots);
  }
  // Sequences first .. first + n - 1 alone, all from the same beginning.
  void run(int first, int n, bool settled = false) {
    reset();
    enqueue(first, n, settled);
  }
  // All sequences, n a call, calls back to back with pools_settled.
  void run_parts(int n) {
    reset();
    for (int first = 0; first < B; first += n) enqueue(first, std::min(n, B - first), true);
  }

 private:
  void reset() {
    d_state.copy_from(state);
    d_window.copy_from(window);
    out.poison();
  }
  void enqueue(int first, int n, bool settled) {
    const size_t width = static_cast<size_t>(H) * D;
    const bf16* const z = d_in.get() + 3 * width * B;
    const KdaDecodeSm90 args = {.qkv = d_in.get() + 3 * width * first,
                                .z = z + width * first,
                                .beta = z + width * B + H * first,
                                .out_gate = z + 2 * width * B + width * first,
                                .conv_weight = conv.get(),
                                .norm_weight = norm.get(),
                                .out = out.get() + width * first,
                                .conv_state = d_window.get(),
                                .state = d_state.get(),
                                .slot = d_slots.get() + first,
                                .n_sequences = n,
                                .n_heads = H,
                                .scale = 0.088f,
                                .gate = {a_log.get(), dt_bias.get()},
                                .pools_settled = settled,
                                .state_type = type,
                                .head_dim = D};
    LINNET_CUDA_OK(kda_decode_sm90(args, stream()));
  }
};

// In bits: repeated runs, a sequence in a batch or alone (the batch size decides how many CTAs share a head), padding untouched.
void check_decode_bits(int D, KdaStateType type, int n_runs) {
  constexpr int B = 300, H = 2;
  DecodeBatch d(B, H, D, type);
  const std::string what =
      "decode, heads of " + std::to_string(D) + (type == KdaStateType::bf16 ? ", bf16 states" : "");
  d.run(0, B);
  const auto out = d.out.host(), window = d.d_window.host();
  const auto state = d.d_state.host();
  bool same = true, untouched = true, alone = true;
  for (int i = 0; i < n_runs; i++) {
    d.run(0, B);
    same = same && same_bits(d.out.host(), out, out.size()) && same_bits(d.d_state.host(), state, state.size()) &&
           same_bits(d.d_window.host(), window, window.size());
  }
  verdict(same, what + ", " + std::to_string(n_runs) + " runs: one answer");

  const size_t n_out = H * D, n_state = d.state.size() / B, n_window = 9 * n_out;
  const auto equal = [](const auto& a, const auto& b, size_t at, size_t n) {
    return std::memcmp(a.data() + at * n, b.data() + at * n, n * sizeof a[0]) == 0;
  };
  const std::vector<bf16> poison = [&] {
    d.out.poison();
    return d.out.host();
  }();
  for (int b = 0; b < B; b++) {
    const bool padding = d.slots[b] < 0, slot_unused = padding;
    untouched = untouched && equal(out, poison, b, n_out) == padding &&
                equal(state, d.state, B - 1 - b, n_state) == slot_unused &&
                equal(window, d.window, B - 1 - b, n_window) == slot_unused;
  }
  verdict(untouched, what + ": padding is neither read nor written, everything else is");

  for (const int n : {1, 12, 40, 120}) {
    d.run(7, n);
    const auto out_n = d.out.host(), window_n = d.d_window.host();
    const auto state_n = d.d_state.host();
    for (int b = 7; b < 7 + n; b++)
      alone = alone && equal(out, out_n, b, n_out) && equal(state, state_n, B - 1 - b, n_state) &&
              equal(window, window_n, B - 1 - b, n_window);
  }
  bool parts = true;
  for (const int n : {1, 12, 40, 120, 300}) {
    d.run_parts(n);
    parts = parts && same_bits(d.out.host(), out, out.size()) && same_bits(d.d_state.host(), state, state.size()) &&
            same_bits(d.d_window.host(), window, window.size());
  }
  verdict(parts,
          what + ": 300 sequences by 1, 12, 40, 120 and 300 a call, one after another with pools settled: same bits");
  verdict(alone, what + ": 1, 12, 40, 120 and 300 sequences: same bits for each of them");
}

void checks(const std::string& mode) {
  if (mode == "sanitize") {
    for (const int n : {1, 3, 30, 101}) DecodeBatch(n, 4).run(0, n, n == 101);
    for (const int D : {128, 64}) DecodeBatch(5, 3, D, KdaStateType::bf16).run(0, 5, D == 64);
    DecodeBatch(5, 3, 64).run(0, 5);
    return;
  }
  for (const KdaStateType type : {KdaStateType::f32, KdaStateType::bf16}) {
    check_decode(130, 2, type);
    check_decode(130, 4, type);
    check_decode(5, 2, type);
  }
  check_options();
  check_rounding();
  check_decode_bits(128, KdaStateType::f32, 100);
  check_decode_bits(128, KdaStateType::bf16, 10);
  check_decode_bits(64, KdaStateType::f32, 10);
  check_decode_bits(64, KdaStateType::bf16, 10);
  check_refusals();
}

}  // namespace
}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  return run_checks(argc, argv, checks, bench_decode);
}
