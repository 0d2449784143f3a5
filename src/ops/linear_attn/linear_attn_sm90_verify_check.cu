// Checks verify and commit against repeated decode, in bits: outputs of k tentative tokens, pools untouched by verify, and pools after the
// commit of every prefix, with padding, permuted slots and both gates. Modes: `bench` then times them (linear_attn_sm90_verify_bench.cu);
// `sanitize` is short, for compute-sanitizer.
#include "ops/linear_attn/linear_attn_sm90_decode_case.cuh"

namespace linnet::ops::sm90_check {

void bench_verify(int argc, char** argv);

namespace {

struct Tentative : StepCase {
  DeviceArray<int32_t> d_accepted;
  DeviceArray<char> pending;

  explicit Tentative(const StepOptions& options)
      : StepCase(options), d_accepted(o.B), pending(kda_verify_sm90_pending_bytes(o.B, o.H, o.k, o.D)) {}
  void reset() {
    StepCase::reset();
    pending.poison();
  }
  KdaVerifySm90 verify_args() const {
    return {.qkv = d_qkv.get(),
            .z = d_z.get(),
            .beta = d_beta.get(),
            .out_gate = d_gate.get(),
            .conv_weight = d_conv.get(),
            .norm_weight = d_norm.get(),
            .out = out.get(),
            .conv_state = d_window.get(),
            .state = d_state.get(),
            .slot = d_slots.get(),
            .n_sequences = o.B,
            .n_heads = o.H,
            .n_tokens = o.k,
            .pending = pending.get(),
            .scale = scale,
            .gate = gate_args(),
            .state_type = o.state_type,
            .out_gate_silu = o.silu,
            .head_dim = o.D};
  }
  void verify() { LINNET_CUDA_OK(kda_verify_sm90(verify_args(), stream())); }
  void commit() {
    const KdaCommitSm90 a = {.n_accepted = d_accepted.get(),
                             .pending = pending.get(),
                             .conv_state = d_window.get(),
                             .state = d_state.get(),
                             .slot = d_slots.get(),
                             .n_sequences = o.B,
                             .n_heads = o.H,
                             .n_tokens = o.k,
                             .state_type = o.state_type,
                             .head_dim = o.D};
    LINNET_CUDA_OK(kda_commit_sm90(a, stream()));
  }
};

// The pools after 0..k decode steps.
struct Pools {
  std::vector<std::vector<char>> state;
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
  for (int b = 0; b < v.o.B; b++) {
    const int slot = v.o.B - 1 - b, n = v.slots[b] < 0 ? 0 : std::clamp(accepted(b), 0, v.o.k);
    same = same && same_slot(state, after.state[n], slot, v.o.B) && same_slot(window, after.window[n], slot, v.o.B);
  }
  return same;
}

void check_verify_case(const StepOptions& o) {
  const int B = o.B, k = o.k;
  const size_t width = o.width();
  Tentative v(o);
  Pools after{{v.d_state.host()}, {v.window}};
  std::vector<bf16> expected(B * k * width);
  v.reset();
  for (int t = 0; t < k; t++) {
    const auto out = v.decode(t);
    for (int b = 0; b < B; b++)
      std::copy_n(out.begin() + b * width, width, expected.begin() + (static_cast<size_t>(b) * k + t) * width);
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
  verdict(outputs && untouched && commits, "verify " + std::to_string(k) + " tokens of " + show(o) + ": outputs " +
                                               (outputs ? "equal" : "DIFFER") + ", pools " +
                                               (untouched ? "untouched" : "CHANGED") + ", commit of 0.." +
                                               std::to_string(k) + (commits ? " equal" : " DIFFERS"));
}

void check_verify() {
  for (int k = 1; k <= kKdaSm90VerifyTokens; k++) check_verify_case({.B = 11, .H = 3, .k = k});
  for (const Draw draw : {Draw::bounded, Draw::mixed, Draw::strong})
    check_verify_case({.B = 6, .H = 2, .k = 4, .draw = draw});
  check_verify_case({.B = 150, .H = 4, .k = 5});
}

void check_options() {
  for (const int D : {128, 64}) {
    for (const KdaStateType type : {KdaStateType::f32, KdaStateType::bf16}) {
      for (const int k : {1, 2, 5, kKdaSm90VerifyTokens})
        check_verify_case({.B = 7, .H = 3, .k = k, .D = D, .state_type = type});
      check_verify_case({.B = 7, .H = 2, .k = 4, .D = D, .draw = Draw::bounded, .state_type = type});
      check_verify_case({.B = 6, .H = 2, .k = 3, .D = D, .state_type = type, .head_gate = true, .silu = true});
    }
  }
}

void check_refusals() {
  Tentative v({.B = 1, .H = 1, .k = 1});
  bool refused = true;
  for (const int k : {-1, 0, kKdaSm90VerifyTokens + 1}) {
    KdaVerifySm90 a = v.verify_args();
    a.n_tokens = k;
    refused = refused && kda_verify_sm90(a, stream()) == cudaErrorInvalidValue &&
              kda_commit_sm90({.n_sequences = 1, .n_heads = 1, .n_tokens = k}, stream()) == cudaErrorInvalidValue;
  }
  verdict(refused, "verify and commit of -1, 0 and 9 tokens are refused");
  const auto not_built = [&](auto change) {
    KdaVerifySm90 a = v.verify_args();
    change(a);
    return kda_verify_sm90(a, stream()) == cudaErrorNotSupported;
  };
  const KdaCommitSm90 wide = {.n_sequences = 1, .n_heads = 1, .n_tokens = 1, .head_dim = 96};
  verdict(not_built([](auto& a) { a.head_dim = 96; }) && not_built([](auto& a) { a.state_v_first = true; }) &&
              not_built([](auto& a) { a.gate.gate = KdaGate::log_decay; }) &&
              kda_commit_sm90(wide, stream()) == cudaErrorNotSupported,
          "heads of 96, values first and gates of prefill alone: verify and commit say that they are not built");
}

void sanitize() {
  for (const int k : {1, 3, kKdaSm90VerifyTokens}) {
    for (const int D : {128, 64}) {
      Tentative v({.B = 5, .H = 3, .k = k, .D = D, .state_type = k == 3 ? KdaStateType::bf16 : KdaStateType::f32});
      v.d_accepted.copy_from({k, 1, 0, k, k / 2});
      v.verify();
      v.commit();
    }
  }
}

void checks(const std::string& mode) {
  if (mode == "sanitize") return sanitize();
  check_verify();
  check_options();
  check_refusals();
}

}  // namespace
}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  return run_checks(argc, argv, checks, bench_verify);
}
