// Checks verify and commit against repeated decode, in bits: outputs of k tentative tokens, pools untouched by verify, and pools after the
// commit of every prefix, with padding, permuted slots and both gates. Modes: `bench` then times them (linear_attn_sm90_verify_bench.cu);
// `sanitize` is short, for compute-sanitizer.
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"

namespace linnet::ops::sm90_check {

void bench_verify(int argc, char** argv);

namespace {

// k tokens of B sequences, and the pools that they meet. Every fourth sequence is padding; slots are in reverse.
struct Tentative {
  int B, H, k;
  size_t width;
  Case c;
  std::vector<int32_t> slots;
  std::vector<bf16> window, qkv, z, beta, gate;
  DeviceArray<float> conv, norm, a_log, dt_bias, d_state;
  DeviceArray<bf16> d_window, d_qkv, d_z, d_beta, d_gate, out;
  DeviceArray<int32_t> d_slots, d_accepted;
  DeviceArray<char> pending;

  Tentative(Draw draw, int B, int H, int k)
      : B(B),
        H(H),
        k(k),
        width(static_cast<size_t>(H) * kD),
        c(make_case(draw, std::vector<int64_t>(B, 0), H, 50 + k)),
        slots(B),
        window(draws(B * 9 * width, 1, 1)),
        qkv(draws(B * k * 3 * width, 2, 1)),
        z(draws(B * k * width, 3, 0.5f)),
        beta(draws(static_cast<size_t>(B) * k * H, 4, 1.5f)),
        gate(draws(B * k * width, 5, 1)),
        conv(floats(3 * width * 4, 6, 0, 0.5f)),
        norm(floats(kD, 7, 1, 0.1f)),
        a_log(c.a_log),
        dt_bias(c.dt_bias),
        d_state(c.state),
        d_window(window),
        d_qkv(qkv),
        d_z(z),
        d_beta(beta),
        d_gate(gate),
        out(B * k * width),
        d_slots(B),
        d_accepted(B),
        pending(kda_verify_sm90_pending_bytes(B, H, k)) {
    for (int b = 0; b < B; b++) slots[b] = b % 4 == 2 ? -1 : B - 1 - b;
    d_slots.copy_from(slots);
  }
  static std::vector<float> floats(size_t n, unsigned seed, float mean, float sigma) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(mean, sigma);
    std::vector<float> x(n);
    for (auto& e : x) e = normal(rng);
    return x;
  }
  static std::vector<bf16> draws(size_t n, unsigned seed, float sigma) {
    std::vector<bf16> x(n);
    const std::vector<float> f = floats(n, seed, 0, sigma);
    for (size_t i = 0; i < n; i++) x[i] = __float2bfloat16(f[i]);
    return x;
  }
  void reset() {
    d_state.copy_from(c.state);
    d_window.copy_from(window);
    out.poison();
    pending.poison();
  }
  KdaVerifySm90 verify_args() const {
    return {.qkv = d_qkv.get(),
            .z = d_z.get(),
            .beta = d_beta.get(),
            .out_gate = d_gate.get(),
            .conv_weight = conv.get(),
            .norm_weight = norm.get(),
            .out = out.get(),
            .conv_state = d_window.get(),
            .state = d_state.get(),
            .slot = d_slots.get(),
            .n_sequences = B,
            .n_heads = H,
            .n_tokens = k,
            .pending = pending.get(),
            .scale = c.scale,
            .gate = {a_log.get(), dt_bias.get(), c.gate, -5.f}};
  }
  void verify() { LINNET_CUDA_OK(kda_verify_sm90(verify_args(), stream())); }
  void commit() {
    const KdaCommitSm90 a = {d_accepted.get(), pending.get(), d_window.get(), d_state.get(), d_slots.get(), B, H, k};
    LINNET_CUDA_OK(kda_commit_sm90(a, stream()));
  }
  // One decode step of token t of every sequence; its outputs.
  std::vector<bf16> decode(int t) {
    const auto of_token = [&](const std::vector<bf16>& x) {
      const size_t n = x.size() / B / k;
      std::vector<bf16> y(B * n);
      for (int b = 0; b < B; b++) std::copy_n(x.begin() + (static_cast<size_t>(b) * k + t) * n, n, y.begin() + b * n);
      return y;
    };
    DeviceArray<bf16> qkv_t(of_token(qkv)), z_t(of_token(z)), beta_t(of_token(beta)), gate_t(of_token(gate)),
        out_t(B * width);
    out_t.poison();
    const KdaDecodeSm90 a = {.qkv = qkv_t.get(),
                             .z = z_t.get(),
                             .beta = beta_t.get(),
                             .out_gate = gate_t.get(),
                             .conv_weight = conv.get(),
                             .norm_weight = norm.get(),
                             .out = out_t.get(),
                             .conv_state = d_window.get(),
                             .state = d_state.get(),
                             .slot = d_slots.get(),
                             .n_sequences = B,
                             .n_heads = H,
                             .scale = c.scale,
                             .gate = {a_log.get(), dt_bias.get(), c.gate, -5.f}};
    LINNET_CUDA_OK(kda_decode_sm90(a, stream()));
    return out_t.host();
  }
};

// The pools after 0..k decode steps.
struct Pools {
  std::vector<std::vector<float>> state;
  std::vector<std::vector<bf16>> window;
};

template <class T>
bool same_slot(const std::vector<T>& a, const std::vector<T>& b, int slot, int B) {
  const size_t n = a.size() / B;
  return std::memcmp(&a[slot * n], &b[slot * n], n * sizeof(T)) == 0;
}

// Whether every sequence's pools are those after accepted(b) decode steps; padding slots those before any.
template <class F>
bool pools_are(const Tentative& v, const Pools& after, F accepted) {
  const auto state = v.d_state.host();
  const auto window = v.d_window.host();
  bool same = true;
  for (int b = 0; b < v.B; b++) {
    const int slot = v.B - 1 - b, n = v.slots[b] < 0 ? 0 : std::clamp(accepted(b), 0, v.k);
    same = same && same_slot(state, after.state[n], slot, v.B) && same_slot(window, after.window[n], slot, v.B);
  }
  return same;
}

void check_verify_case(Draw draw, int B, int H, int k) {
  Tentative v(draw, B, H, k);
  Pools after{{v.c.state}, {v.window}};
  std::vector<bf16> expected(B * k * v.width);
  v.reset();
  for (int t = 0; t < k; t++) {
    const auto out = v.decode(t);
    for (int b = 0; b < B; b++)
      std::copy_n(out.begin() + b * v.width, v.width, expected.begin() + (static_cast<size_t>(b) * k + t) * v.width);
    after.state.push_back(v.d_state.host());
    after.window.push_back(v.d_window.host());
  }
  v.reset();
  v.verify();
  const auto out = v.out.host();
  const bool outputs = same_bits(out, expected, out.size()), untouched = pools_are(v, after, [](int) { return 0; });

  // One graph of verify and commit; what is accepted changes between its replays.
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  LINNET_CUDA_OK(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  v.verify();
  v.commit();
  LINNET_CUDA_OK(cudaStreamEndCapture(stream(), &graph));
  LINNET_CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  bool commits = true;
  const auto check_commit = [&](auto accepted) {
    std::vector<int32_t> list(B);
    for (int b = 0; b < B; b++) list[b] = accepted(b);
    v.d_accepted.copy_from(list);
    v.reset();
    LINNET_CUDA_OK(cudaGraphLaunch(exec, stream()));
    commits = commits && pools_are(v, after, accepted);
  };
  for (int n = 0; n <= k; n++) check_commit([n](int) { return n; });
  check_commit([k](int b) { return b * 5 % (k + 3) - 1; });  // each sequence its own, -1 and k + 1 among them
  LINNET_CUDA_OK(cudaGraphExecDestroy(exec));
  LINNET_CUDA_OK(cudaGraphDestroy(graph));
  verdict(outputs && untouched && commits,
          std::string("verify ") + std::to_string(k) + " tokens of " + std::to_string(B) + " sequences x " +
              std::to_string(H) + " heads, " + kDrawNames[static_cast<int>(draw)] + ": outputs " +
              (outputs ? "equal" : "DIFFER") + ", pools " + (untouched ? "untouched" : "CHANGED") + ", commit of 0.." +
              std::to_string(k) + (commits ? " equal" : " DIFFERS"));
}

void check_verify() {
  for (int k = 1; k <= kKdaSm90VerifyTokens; k++) check_verify_case(Draw::trained, 11, 3, k);
  for (const Draw draw : {Draw::bounded, Draw::mixed, Draw::strong}) check_verify_case(draw, 6, 2, 4);
  check_verify_case(Draw::trained, 150, 4, 5);
  Tentative v(Draw::trained, 1, 1, 1);
  KdaVerifySm90 a = v.verify_args();
  bool refused = true;
  for (const int k : {-1, 0, kKdaSm90VerifyTokens + 1}) {
    a.n_tokens = k;
    refused = refused && kda_verify_sm90(a, stream()) == cudaErrorInvalidValue &&
              kda_commit_sm90({.n_sequences = 1, .n_heads = 1, .n_tokens = k}, stream()) == cudaErrorInvalidValue;
  }
  verdict(refused, "verify and commit of -1, 0 and 9 tokens are refused");
}

void sanitize() {
  for (const int k : {1, 3, kKdaSm90VerifyTokens}) {
    Tentative v(Draw::trained, 5, 3, k);
    v.d_accepted.copy_from({k, 1, 0, k, k / 2});
    v.verify();
    v.commit();
  }
}

}  // namespace
}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  const auto checks = [](const std::string& mode) { mode == "sanitize" ? sanitize() : check_verify(); };
  return run_checks(argc, argv, checks, bench_verify);
}
