// Pools and arguments for timing the Hopper KDA decode and verify kernels: another part of the pools each call, calls back to back in a
// replayed graph.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_timing.cuh"

namespace linnet::ops::sm90_check {

inline constexpr int kHeads = 32, kWidth = kHeads * kD;
inline constexpr double kStateBytes = kD * kD * 4, kWindowBytes = 9 * kD * 2;  // per head
inline constexpr double kTokenBytes = 6 * kD * 2 + 2;             // per head: q, k, v, z, output gate, output; beta
inline constexpr double kPendingBytes = 3 * kD * 4 + 3 * kD * 2;  // per head and token, what verify leaves for commit

// Pools of n_calls * B slots: at least 1 GB of state, so that none is met again while the L2 may hold it.
struct Pools {
  int B, n_calls, n_slots;
  Case c;
  DeviceArray<float> a_log, dt_bias, conv, norm, state;
  std::vector<bf16> random;
  DeviceArray<bf16> window, in, out;
  DeviceArray<int32_t> slot;

  explicit Pools(int B)
      : B(B),
        n_calls(std::max(4, 512 / B)),
        n_slots(n_calls * B),
        c(make_case(Draw::trained, {1}, kHeads, 3)),
        a_log(c.a_log),
        dt_bias(c.dt_bias),
        conv(std::vector<float>(3 * kWidth * 4, 0.3f)),
        norm(std::vector<float>(kD, 1.f)),
        state(static_cast<size_t>(n_slots) * kWidth * kD),
        random(static_cast<size_t>(n_slots) * 3 * kWidth * 3),
        window(random.size()),
        in(random.size()),
        out(static_cast<size_t>(B) * kWidth * kKdaSm90VerifyTokens),
        slot(n_slots) {
    std::mt19937 rng(1);
    constexpr size_t kTile = 1 << 20;  // host generation is slow: repeated
    for (size_t i = 0; i < random.size(); i++)
      random[i] = i < kTile ? __float2bfloat16(static_cast<float>(rng() % 2000) / 1000.f - 1.f) : random[i - kTile];
    window.copy_from(random);
    in.copy_from(random);
    std::vector<int32_t> list(n_slots);
    for (int i = 0; i < n_slots; i++) {
      list[i] = i;
      LINNET_CUDA_OK(cudaMemcpy(state.get() + static_cast<size_t>(i) * kWidth * kD, c.state.data(), c.state.size() * 4,
                                cudaMemcpyHostToDevice));
    }
    slot.copy_from(list);
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
            .pools_settled = settled};
  }
  KdaVerifySm90 verify(int call, int k, void* pending) const {
    const KdaDecodeSm90 d = decode(call);
    return {d.qkv,  d.z,           d.beta,    d.out_gate, d.conv_weight, d.norm_weight, d.out, d.conv_state, d.state,
            d.slot, d.n_sequences, d.n_heads, k,          pending,       d.scale,       1e-5f, d.gate};
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
  char shape[32];
  std::snprintf(shape, sizeof shape, "B%d H%d%s", p.B, kHeads, settled ? "" : " unsettled");
  report("kda_decode", shape, p.B * kHeads * (2 * kStateBytes + 2 * kWindowBytes + kTokenBytes) / bandwidth, t,
         std::to_string(p.n_calls) + " calls a graph");
  return t.median;
}

}  // namespace linnet::ops::sm90_check
