// Pools and arguments for timing the Hopper KDA decode and verify kernels: another part of the pools each call, calls back to back in a
// replayed graph.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_timing.cuh"
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"

namespace linnet::ops::sm90_check {

inline constexpr int kHeads = 32;

// Pools of n_calls * B slots: at least 1 GB of f32 states of 128, so that none is met again while the L2 may hold it.
struct Pools {
  int B, D;
  KdaStateType type;
  int n_calls, n_slots, width;
  Case c;
  DeviceArray<float> a_log, dt_bias, conv, norm;
  DeviceArray<char> state;
  std::vector<bf16> random;
  DeviceArray<bf16> window, in, out;
  DeviceArray<int32_t> slot;

  // Of one head: states, windows; of one token: q, k, v, z, output gate, output, beta; what verify leaves for commit.
  double state_bytes() const { return 1. * D * D * (type == KdaStateType::f32 ? 4 : 2); }
  double window_bytes() const { return 9. * D * 2; }
  double token_bytes() const { return 6. * D * 2 + 2; }
  double pending_bytes() const { return 3. * D * 4 + 3. * D * 2; }

  explicit Pools(int B, int D = kD, KdaStateType type = KdaStateType::f32)
      : B(B),
        D(D),
        type(type),
        n_calls(std::max(4, 512 / B) * (kD / D) * (type == KdaStateType::f32 ? 1 : 2)),
        n_slots(n_calls * B),
        width(kHeads * D),
        c(make_case(Draw::trained, {1}, kHeads, 3)),
        a_log(c.a_log),
        dt_bias(c.dt_bias),
        conv(std::vector<float>(3 * width * 4, 0.3f)),
        norm(std::vector<float>(D, 1.f)),
        state(static_cast<size_t>(n_slots) * kHeads * static_cast<size_t>(state_bytes())),
        random(static_cast<size_t>(n_slots) * 3 * width * 3),
        window(random.size()),
        in(random.size()),
        out(static_cast<size_t>(B) * width * kKdaSm90VerifyTokens),
        slot(n_slots) {
    std::mt19937 rng(1);
    constexpr size_t kTile = 1 << 20;  // host generation is slow: repeated
    for (size_t i = 0; i < random.size(); i++)
      random[i] = i < kTile ? __float2bfloat16(static_cast<float>(rng() % 2000) / 1000.f - 1.f) : random[i - kTile];
    window.copy_from(random);
    in.copy_from(random);
    const std::vector<bf16> half = rounded(c.state);
    const void* const one = type == KdaStateType::f32 ? static_cast<const void*>(c.state.data()) : half.data();
    const size_t one_bytes = kHeads * static_cast<size_t>(state_bytes());
    std::vector<int32_t> list(n_slots);
    for (int i = 0; i < n_slots; i++) {
      list[i] = i;
      LINNET_CUDA_OK(cudaMemcpy(state.get() + i * one_bytes, one, one_bytes, cudaMemcpyHostToDevice));
    }
    slot.copy_from(list);
  }
  std::string shape(const char* more = "") const {
    char text[48];
    std::snprintf(text, sizeof text, "B%d H%d%s%s%s", B, kHeads, D == kD ? "" : " D64",
                  type == KdaStateType::f32 ? "" : " bf16", more);
    return text;
  }
  // As in the layer, where projections come before a step: its pools are settled, unless said otherwise.
  KdaDecodeSm90 decode(int call, bool settled = true) const {
    return {.qkv = in.get(),
            .z = in.get() + 7 * B,
            .beta = in.get() + 64,
            .out_gate = in.get() + 4096,
            .conv_weight = conv.get(),
            .norm_weight = norm.get(),
            .out = out.get(),
            .conv_state = window.get(),
            .state = state.get(),
            .slot = slot.get() + call * B,
            .n_sequences = B,
            .n_heads = kHeads,
            .scale = c.scale,
            .gate = {a_log.get(), dt_bias.get()},
            .pools_settled = settled,
            .state_type = type,
            .head_dim = D};
  }
  KdaVerifySm90 verify(int call, int k, void* pending) const {
    const KdaDecodeSm90 d = decode(call);
    return {.qkv = d.qkv,
            .z = d.z,
            .beta = d.beta,
            .out_gate = d.out_gate,
            .conv_weight = d.conv_weight,
            .norm_weight = d.norm_weight,
            .out = d.out,
            .conv_state = d.conv_state,
            .state = d.state,
            .slot = d.slot,
            .n_sequences = d.n_sequences,
            .n_heads = d.n_heads,
            .n_tokens = k,
            .pending = pending,
            .scale = d.scale,
            .gate = d.gate,
            .state_type = type,
            .head_dim = D};
  }
  KdaCommitSm90 commit(int call, int k, const void* pending, const int32_t* accepted) const {
    const KdaDecodeSm90 d = decode(call);
    return {.n_accepted = accepted,
            .pending = pending,
            .conv_state = d.conv_state,
            .state = d.state,
            .slot = d.slot,
            .n_sequences = B,
            .n_heads = kHeads,
            .n_tokens = k,
            .settled = true,
            .state_type = type,
            .head_dim = D};
  }
  // Microseconds a call of a replayed graph of all calls.
  template <class F>
  Times time(F enqueue) const {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    LINNET_CUDA_OK(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
    for (int i = 0; i < n_calls; i++) LINNET_CUDA_OK(enqueue(i));
    LINNET_CUDA_OK(cudaStreamEndCapture(stream(), &graph));
    LINNET_CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
    Times t = time_us(20, [&] { LINNET_CUDA_OK(cudaGraphLaunch(exec, stream())); });
    for (double* x : {&t.median, &t.p10, &t.p90}) *x /= n_calls;
    LINNET_CUDA_OK(cudaGraphExecDestroy(exec));
    LINNET_CUDA_OK(cudaGraphDestroy(graph));
    return t;
  }
};

// Returns the median of one step.
inline double bench_step(const Pools& p, double bandwidth, bool settled = true) {
  const Times t = p.time([&](int call) { return kda_decode_sm90(p.decode(call, settled), stream()); });
  const double bytes = 2 * p.state_bytes() + 2 * p.window_bytes() + p.token_bytes();
  report("kda_decode", p.shape(settled ? "" : " unsettled"), p.B * kHeads * bytes / bandwidth, t,
         std::to_string(p.n_calls) + " calls a graph");
  return t.median;
}

}  // namespace linnet::ops::sm90_check
