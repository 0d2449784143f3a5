// Checks the Hopper KDA kernels against the definition in double, and the properties that no tolerance covers: determinism,
// causality and split invariance in bits. Modes: `bench` then times them (linear_attn_sm90_bench.cu); `decode` checks and times decode alone;
// `sanitize` and `sanitize_decode` are short, for compute-sanitizer.
#include <cstring>

#include "ops/linear_attn/linear_attn_sm90_case.cuh"
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"

namespace linnet::ops::sm90_check {

void bench(int argc, char** argv, bool prefill);
void profile();

namespace {

int failures = 0;

void verdict(bool ok, const std::string& what) {
  std::printf("%s %s\n", ok ? "ok  " : "FAIL", what.c_str());
  failures += !ok;
}

struct Error {
  double rms;        // ||x - ref|| / ||ref||
  double worst_row;  // largest row error over the root mean square row norm of the reference
  bool finite;
};

template <class T>
Error compare(const std::vector<T>& x, const std::vector<double>& ref) {
  double e2 = 0, r2 = 0, worst = 0;
  bool finite = true;
  for (size_t row = 0; row < ref.size() / kD; row++) {
    double row_e2 = 0;
    for (size_t i = row * kD; i < (row + 1) * kD; i++) {
      const double v = static_cast<double>(static_cast<float>(x[i])), d = v - ref[i];
      finite = finite && std::isfinite(v);
      row_e2 += d * d;
      r2 += ref[i] * ref[i];
    }
    e2 += row_e2;
    worst = std::max(worst, row_e2);
  }
  if (r2 == 0) return {std::sqrt(e2), std::sqrt(worst), finite};
  return {std::sqrt(e2 / r2), std::sqrt(worst / (r2 / (ref.size() / kD))), finite};
}

// FLA's own tests allow 0.005 relative RMS for o and the final state. Rounding o to bf16 costs 2^-9 / sqrt(3) = 1.1e-3 to 2.3e-3;
// the f16 operands on the way add 2^-12 a product. A single row may be worse where o nearly cancels: 0.05 of the typical row.
bool accept(const Error& e) { return e.finite && e.rms <= 0.005 && e.worst_row <= 0.05; }

std::string show(const Error& e) {
  char text[96];
  std::snprintf(text, sizeof text, "rms %.2e worst row %.2e%s", e.rms, e.worst_row, e.finite ? "" : " NOT FINITE");
  return text;
}

void check_accuracy() {
  const std::vector<int64_t> lengths = {1, 15, 16, 0, 17, 63, 64, 65, 127, 128, 129, 200, 0, 1000};
  for (int draw = 0; draw < 10; draw++) {
    const Case c = make_case(static_cast<Draw>(draw), lengths, 3, 100 + draw);
    DeviceCase d(c);
    d.run();
    const Result ref = reference(c);
    const Error out = compare(d.out.host(), ref.out),
                state = compare(DeviceCase::permuted(d.state.host(), c.B()), ref.state);
    verdict(accept(out) && accept(state),
            std::string("prefill ragged, ") + kDrawNames[draw] + ": out " + show(out) + ", state " + show(state));
  }
  for (const Draw draw : {Draw::trained, Draw::weak}) {
    const Case c = make_case(draw, {8191}, 2, 7, true);
    DeviceCase d(c);
    d.args.state_in = nullptr;
    d.args.seq_start = d.start64.get();
    d.args.seq_start_is_64 = true;
    d.run();
    const Result ref = reference(c);
    const Error out = compare(d.out.host(), ref.out), state = compare(d.state.host(), ref.state);
    verdict(accept(out) && accept(state), std::string("prefill 8191 tokens, no initial state, int64, ") +
                                              kDrawNames[static_cast<int>(draw)] + ": out " + show(out) + ", state " +
                                              show(state));
  }
  const Case c =
      make_case(Draw::trained, std::vector<int64_t>(40, 130), 4, 8);  // enough heads for both value halves on one SM
  DeviceCase d(c);
  d.run();
  const Result ref = reference(c);
  const Error out = compare(d.out.host(), ref.out),
              state = compare(DeviceCase::permuted(d.state.host(), c.B()), ref.state);
  verdict(accept(out) && accept(state), "prefill 40 sequences x 4 heads: out " + show(out) + ", state " + show(state));
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b, size_t n) {
  return std::memcmp(a.data(), b.data(), n * sizeof(T)) == 0;
}

void check_bits() {
  const Case c = make_case(Draw::trained, {700, 333, 64}, 4, 21);
  DeviceCase d(c);
  d.run();
  const auto out = d.out.host();
  const auto state = d.state.host();
  bool same = true;
  for (int i = 0; i < 100; i++) {
    d.reset(c);
    d.run();
    same = same && same_bits(d.out.host(), out, out.size()) && same_bits(d.state.host(), state, state.size());
  }
  verdict(same, "100 runs, one answer");

  bool causal = true;
  const Case one = make_case(Draw::mixed, {200}, 2, 22);
  DeviceCase before(one);
  before.run();
  const auto out_before = before.out.host();
  for (int t = 1; t < 200; t += 3) {
    Case changed = one;
    for (int64_t i = static_cast<int64_t>(t) * 2 * kD; i < static_cast<int64_t>(changed.q.size()); i++) {
      changed.q[i] = __float2bfloat16(1.5f), changed.k[i] = __float2bfloat16(-static_cast<float>(i % 7)),
      changed.v[i] = __float2bfloat16(9.f);
      changed.z[i] = __float2bfloat16(i % 2 ? 60.f : -60.f);
    }
    for (size_t i = static_cast<size_t>(t) * 2; i < changed.beta.size(); i++) changed.beta[i] = __float2bfloat16(3.f);
    DeviceCase after(changed);
    after.run();
    const size_t n = static_cast<size_t>(t) * 2 * kD;
    const auto out_after = after.out.host();
    causal = causal && same_bits(out_before, out_after, n) && !same_bits(out_before, out_after, n + 1);
  }
  verdict(causal, "outputs before token t do not depend on tokens from t on, in bits, t = 1, 4, .. 199");

  // The same sequence in two calls, cut at 64 and 128.
  bool split_same = true;
  for (const int cut : {64, 128}) {
    DeviceCase part(one);
    std::vector<int32_t> start = {0, cut};
    part.start32.copy_from(start);
    part.args.n_tokens = cut;
    part.run();
    start[1] = 200 - cut;
    part.start32.copy_from(start);
    part.args.n_tokens = 200 - cut;
    const size_t offset = static_cast<size_t>(cut) * 2 * kD;
    part.args.q = part.q.get() + offset, part.args.k = part.k.get() + offset, part.args.v = part.v.get() + offset;
    part.args.z = part.z.get() + offset, part.args.beta = part.beta.get() + cut * 2,
    part.args.out = part.out.get() + offset;
    part.run();
    split_same = split_same && same_bits(part.out.host(), out_before, out_before.size()) &&
                 same_bits(part.state.host(), before.state.host(), before.state.size());
  }
  verdict(split_same, "one call and two calls cut at 64 or 128: same bits");

  // Negative slots: nothing read, nothing written.
  DeviceCase skip(one);
  skip.slots.copy_from({-1});
  const auto state_before = skip.state.host();
  skip.run();
  Case zero = one;
  std::fill(zero.state.begin(), zero.state.end(), 0.f);
  const Error e = compare(skip.out.host(), reference(zero).out);
  verdict(accept(e) && same_bits(skip.state.host(), state_before, state_before.size()),
          "negative slot: zero state in, none out: " + show(e));
}

// One chunk's record against its definition in double: the factors of the state and the two triangular matrices.
void check_record(Draw draw, int n_valid) {
  using sm90::Record;
  const Case c = make_case(draw, {n_valid}, 1, 40 + n_valid);
  DeviceCase d(c);
  LINNET_CUDA_OK(sm90::launch_prep(d.args, reinterpret_cast<Record*>(d.workspace.get()), 1, stream()));
  const auto bytes = d.workspace.host();
  const auto at = [&](size_t matrix, int row, int col) {
    const size_t panel = col / 64, piece = static_cast<size_t>(col % 64) / 8;
    __half h;
    std::memcpy(
        &h, bytes.data() + matrix + panel * sm90::kPanelBytes + row * 128 + ((piece ^ (row & 7)) << 4) + (col & 7) * 2,
        2);
    return static_cast<double>(__half2float(h));
  };
  constexpr int n = sm90::kChunk;
  std::vector<double> G(n * kD), q(n * kD), k(n * kD), beta(n), L(n * n), A(n * n), M(n * n);
  for (int i = 0; i < n; i++) {
    double qq = 1e-6, kk = 1e-6;
    for (int e = 0; e < kD; e++) {
      const bool in = i < n_valid;
      q[i * kD + e] = in ? __bfloat162float(c.q[i * kD + e]) : 0,
                 k[i * kD + e] = in ? __bfloat162float(c.k[i * kD + e]) : 0;
      G[i * kD + e] = (i ? G[(i - 1) * kD + e] : 0) + (in ? log_decay(c, 0, e, __bfloat162float(c.z[i * kD + e])) : 0);
      qq += q[i * kD + e] * q[i * kD + e], kk += k[i * kD + e] * k[i * kD + e];
    }
    for (int e = 0; e < kD; e++) q[i * kD + e] /= std::sqrt(qq), k[i * kD + e] /= std::sqrt(kk);
    beta[i] = i < n_valid ? 1 / (1 + std::exp(-static_cast<double>(__bfloat162float(c.beta[i])))) : 0;
    for (int j = 0; j <= i; j++) {
      for (int e = 0; e < kD; e++) {
        const double f = std::exp(G[i * kD + e] - G[j * kD + e]) * k[j * kD + e];
        A[i * n + j] += q[i * kD + e] * f;
        L[i * n + j] += beta[i] * k[i * kD + e] * f;
      }
    }
    for (int j = 0; j <= i; j++) {
      double m = i == j;
      for (int l = j; l < i; l++) m -= L[i * n + l] * M[l * n + j];
      M[i * n + j] = m;
    }
  }
  double worst[6] = {};
  for (int i = 0; i < n; i++) {
    for (int col = 0; col < kD; col++) {
      const int e = sm90::key_channel(col);
      const double in = std::exp(G[i * kD + e]), out = std::exp(G[(n - 1) * kD + e] - G[i * kD + e]);
      worst[0] = std::max(worst[0], std::abs(at(offsetof(Record, k_in), i, col) - k[i * kD + e] * in));
      worst[1] = std::max(worst[1], std::abs(at(offsetof(Record, q_in), i, col) - q[i * kD + e] * in));
      worst[2] = std::max(worst[2], std::abs(at(offsetof(Record, k_out), i, col) - k[i * kD + e] * out));
    }
    for (int j = 0; j < n; j++) {
      worst[3] = std::max(worst[3], std::abs(at(offsetof(Record, solve), i, j) - M[i * n + j] * beta[j]));
      worst[4] = std::max(worst[4], std::abs(at(offsetof(Record, attend), i, j) - A[i * n + j]));
    }
  }
  for (int col = 0; col < kD; col++) {
    float f;
    std::memcpy(&f, bytes.data() + offsetof(Record, decay) + col * 4, 4);
    worst[5] = std::max(worst[5], std::abs(f - std::exp(G[(n - 1) * kD + sm90::key_channel(col)])));
  }
  // f16 operands (2^-11 each, entries at most 1) and f32 sums: 1e-3 covers two roundings; the inverse adds its two joins.
  bool ok = true;
  for (int i = 0; i < 6; i++) ok = ok && worst[i] < (i == 3 ? 4e-3 : 1e-3);
  char text[160];
  std::snprintf(
      text, sizeof text,
      "record of %d tokens, %s: largest error k_in %.1e q_in %.1e k_out %.1e solve %.1e attend %.1e decay %.1e",
      n_valid, kDrawNames[static_cast<int>(draw)], worst[0], worst[1], worst[2], worst[3], worst[4], worst[5]);
  verdict(ok, text);
}

double silu(double x) { return x / (1 + std::exp(-x)); }

// Sequences of 1..n_longest tokens through prefill, then three tokens of decode each; the layer's convolution on the host for the prefill.
void check_decode(int n_longest, int H) {
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
    d.run();
    Result ref = reference(c);
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
                                  .state = d.state.get(),
                                  .slot = d.slots.get(),
                                  .n_sequences = B,
                                  .n_heads = H,
                                  .scale = c.scale,
                                  .gate = d.args.gate};
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
      const Error out = compare(d_out.host(), expected),
                  state = compare(DeviceCase::permuted(d.state.host(), B), ref.state);
      verdict(accept(out) && accept(state), "prefill of 1.." + std::to_string(n_longest) + " tokens, " +
                                                std::to_string(H) + " heads, decode step " + std::to_string(step + 1) +
                                                ", " + kDrawNames[static_cast<int>(draw)] + ": out " + show(out) +
                                                ", state " + show(state));
    }
  }
}

// Decode of a batch with padding, from random states.
struct DecodeBatch {
  int B, H;
  std::vector<int32_t> slots;
  std::vector<bf16> window, in;
  std::vector<float> state;
  DeviceArray<float> conv, norm, a_log, dt_bias, d_state;
  DeviceArray<bf16> d_window, d_in, out;
  DeviceArray<int32_t> d_slots;

  DecodeBatch(int B, int H, const Case& c)
      : B(B),
        H(H),
        slots(B),
        window(static_cast<size_t>(B) * 9 * H * kD),
        in(static_cast<size_t>(B) * 6 * H * kD),
        state(c.state),
        conv(std::vector<float>(3 * H * kD * 4, 0.3f)),
        norm(std::vector<float>(kD, 1.f)),
        a_log(c.a_log),
        dt_bias(c.dt_bias),
        d_state(state),
        d_window(window.size()),
        d_in(in.size()),
        out(static_cast<size_t>(B) * H * kD),
        d_slots(B) {
    std::mt19937 rng(9);
    std::normal_distribution<float> normal;
    for (auto* x : {&window, &in})
      for (auto& e : *x) e = __float2bfloat16(normal(rng));
    for (int b = 0; b < B; b++) slots[b] = b % 5 == 3 ? -1 : B - 1 - b;
    d_in.copy_from(in);
    d_slots.copy_from(slots);
  }
  // Sequences first .. first + n - 1 alone, all from the same beginning.
  void run(int first, int n) {
    d_state.copy_from(state);
    d_window.copy_from(window);
    out.poison();
    const size_t width = static_cast<size_t>(H) * kD;
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
                                .gate = {a_log.get(), dt_bias.get()}};
    LINNET_CUDA_OK(kda_decode_sm90(args, stream()));
  }
};

// In bits: repeated runs, a sequence in a batch or alone (the batch size decides how many CTAs share a head), padding untouched.
void check_decode_bits() {
  constexpr int B = 300, H = 2;
  DecodeBatch d(B, H, make_case(Draw::trained, std::vector<int64_t>(B, 0), H, 33));
  d.run(0, B);
  const auto out = d.out.host(), window = d.d_window.host();
  const auto state = d.d_state.host();
  bool same = true, untouched = true, alone = true;
  for (int i = 0; i < 100; i++) {
    d.run(0, B);
    same = same && same_bits(d.out.host(), out, out.size()) && same_bits(d.d_state.host(), state, state.size()) &&
           same_bits(d.d_window.host(), window, window.size());
  }
  verdict(same, "decode, 100 runs, one answer");

  constexpr size_t n_out = H * kD, n_state = n_out * kD, n_window = 9 * n_out;
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
  verdict(untouched, "decode: padding is neither read nor written, everything else is");

  for (const int n : {1, 12, 40, 120}) {
    d.run(7, n);
    const auto out_n = d.out.host(), window_n = d.d_window.host();
    const auto state_n = d.d_state.host();
    for (int b = 7; b < 7 + n; b++)
      alone = alone && equal(out, out_n, b, n_out) && equal(state, state_n, B - 1 - b, n_state) &&
              equal(window, window_n, B - 1 - b, n_window);
  }
  verdict(alone, "decode of 1, 12, 40, 120 and 300 sequences: same bits for each of them");
}

}  // namespace
}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  cudaDeviceProp p;
  LINNET_CUDA_OK(cudaGetDeviceProperties(&p, 0));
  std::printf("%s, %d SMs\n", p.name, p.multiProcessorCount);
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "profile") {
    profile();
    return 0;
  }
  if (mode != "decode" && mode != "sanitize_decode") {
    for (const Draw draw : {Draw::zero, Draw::trained, Draw::strong, Draw::cliffs, Draw::bounded, Draw::collinear})
      for (const int n : {64, 1, 17, 50}) check_record(draw, n);
    check_accuracy();
    LINNET_CUDA_OK(cudaDeviceSynchronize());
    if (mode != "sanitize") check_bits();
  }
  if (mode == "sanitize_decode") {
    for (const int n : {1, 3, 30, 101})
      DecodeBatch(n, 4, make_case(Draw::trained, std::vector<int64_t>(n, 0), 4, 34)).run(0, n);
  } else if (mode != "sanitize") {
    check_decode(130, 2);
    check_decode(130, 4);
    check_decode(5, 2);
    check_decode_bits();
  }
  LINNET_CUDA_OK(cudaDeviceSynchronize());
  std::printf("%d failures\n", failures);
  if (mode == "bench" || mode == "decode") bench(argc, argv, mode == "bench");
  return failures ? 1 : 0;
}
