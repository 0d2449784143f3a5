// Times the Hopper KDA decode kernel against its floor: compulsory bytes over the copy bandwidth measured in the same run. Another part of
// the state pool each call, calls back to back in a replayed graph.
#include "ops/linear_attn/linear_attn_sm90_timing.cuh"

namespace linnet::ops::sm90_check {
namespace {

void bench_step(double bandwidth, int B) {
  constexpr int H = 32, width = H * kD;
  const int calls = std::max(4, 512 / B);  // different slots each call: at least 1 GB of state before one is met again
  const int slots = calls * B;
  const Case c = make_case(Draw::trained, {1}, H, 3);
  DeviceArray<float> a_log(c.a_log), dt_bias(c.dt_bias), conv(std::vector<float>(3 * width * 4, 0.3f)),
      norm(std::vector<float>(kD, 1.f));
  DeviceArray<float> state(static_cast<size_t>(slots) * width * kD);
  for (int i = 0; i < slots; i++)
    LINNET_CUDA_OK(cudaMemcpy(state.get() + static_cast<size_t>(i) * width * kD, c.state.data(), c.state.size() * 4,
                              cudaMemcpyHostToDevice));
  std::vector<bf16> random(static_cast<size_t>(slots) * 3 * width * 3);
  std::mt19937 rng(1);
  for (auto& x : random) x = __float2bfloat16(static_cast<float>(rng() % 2000) / 1000.f - 1.f);
  DeviceArray<bf16> window(random), in(random), out(static_cast<size_t>(B) * width);
  std::vector<int32_t> list(slots);
  for (int i = 0; i < slots; i++) list[i] = i;
  DeviceArray<int32_t> slot(list);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  LINNET_CUDA_OK(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeGlobal));
  for (int i = 0; i < calls; i++) {
    const KdaDecodeSm90 a = {.qkv = in.get(),
                             .z = in.get() + 7 * B,
                             .beta = in.get() + 64,
                             .out_gate = in.get() + 4096,
                             .conv_weight = conv.get(),
                             .norm_weight = norm.get(),
                             .out = out.get(),
                             .conv_state = window.get(),
                             .state = state.get(),
                             .slot = slot.get() + i * B,
                             .n_sequences = B,
                             .n_heads = H,
                             .scale = c.scale,
                             .gate = {a_log.get(), dt_bias.get()}};
    LINNET_CUDA_OK(kda_decode_sm90(a, stream()));
  }
  LINNET_CUDA_OK(cudaStreamEndCapture(stream(), &graph));
  LINNET_CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  Times t = time_us(20, [&] { LINNET_CUDA_OK(cudaGraphLaunch(exec, stream())); });
  for (double* x : {&t.median, &t.p10, &t.p90}) *x /= calls;
  const double bytes = static_cast<double>(B) * H * (2 * 65536 + 1282 + 2 * 2304);
  report("kda_decode", "B" + std::to_string(B) + " H32", bytes / bandwidth, t,
         std::to_string(calls) + " calls a graph");
}

}  // namespace

void bench_decode(int argc, char** argv) {
  const double bandwidth = begin_bench(argc, argv);
  for (const int B : {1, 4, 8, 32, 64, 128, 256}) bench_step(bandwidth, B);
}

}  // namespace linnet::ops::sm90_check
