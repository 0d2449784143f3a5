// Times the Hopper KDA kernels against their floors: compulsory bytes over the copy bandwidth measured in the same run. Inputs random,
// more bytes a call than the L2 holds (decode: another part of the state pool each call), medians of event times.
#include "ops/linear_attn/linear_attn_sm90_case.cuh"
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"

namespace linnet::ops::sm90_check {
namespace {

struct Times {
  double median, p10, p90;
};

template <class F>
Times time_us(int repeats, F run) {
  cudaEvent_t begin, end;
  LINNET_CUDA_OK(cudaEventCreate(&begin));
  LINNET_CUDA_OK(cudaEventCreate(&end));
  std::vector<double> t;
  for (int i = -5; i < repeats; i++) {
    LINNET_CUDA_OK(cudaEventRecord(begin, stream()));
    run();
    LINNET_CUDA_OK(cudaEventRecord(end, stream()));
    LINNET_CUDA_OK(cudaEventSynchronize(end));
    float ms;
    LINNET_CUDA_OK(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 0) t.push_back(ms * 1e3);
  }
  std::sort(t.begin(), t.end());
  return {t[t.size() / 2], t[t.size() / 10], t[t.size() * 9 / 10]};
}

double copy_bytes_per_us() {
  const size_t n = 2ull << 30;
  DeviceArray<char> a(n), b(n);
  a.poison();
  return 2.0 * n / time_us(20, [&] {
                     LINNET_CUDA_OK(cudaMemcpyAsync(b.get(), a.get(), n, cudaMemcpyDeviceToDevice, stream()));
                   }).median;
}

std::string meta;

void report(const char* op, const std::string& shape, double floor_us, const Times& t, const std::string& more) {
  std::printf("%-12s %-7s %-26s %6.3f %9.1f %9.1f..%-9.1f %9.1f  mem  %s\n", op, "sm90", shape.c_str(),
              floor_us / t.median, t.median, t.p10, t.p90, floor_us, more.c_str());
  std::fprintf(stderr,
               "{\"op\":\"%s\",\"variant\":\"sm90\",\"shape\":\"%s\",\"ratio\":%.4f,\"time_us\":%.2f,\"p10_us\":%.2f,"
               "\"p90_us\":%.2f,\"floor_us\":%.2f,\"bound\":\"mem\"%s}\n",
               op, shape.c_str(), floor_us / t.median, t.median, t.p10, t.p90, floor_us, meta.c_str());
}

// Host generation is slow: a random tile of 4096 tokens of one head, repeated.
Case tiled_case(int B, int64_t T, int H, Draw draw) {
  const Case tile = make_case(draw, {4096}, 1, 3, true);
  Case c = tile;
  c.H = H;
  c.start = {0};
  for (int b = 0; b < B; b++) c.start.push_back(c.start.back() + T);
  const size_t rows = static_cast<size_t>(B) * T * H;
  const auto tiled = [&](std::vector<bf16>& x, const std::vector<bf16>& from, size_t n) {
    x.resize(n);
    for (size_t i = 0; i < n; i += from.size()) std::copy_n(from.begin(), std::min(from.size(), n - i), x.begin() + i);
  };
  tiled(c.q, tile.q, rows * kD), tiled(c.k, tile.k, rows * kD), tiled(c.v, tile.v, rows * kD),
      tiled(c.z, tile.z, rows * kD);
  tiled(c.beta, tile.beta, rows);
  c.a_log.assign(H, tile.a_log[0]);
  c.dt_bias.clear();
  for (int h = 0; h < H; h++) c.dt_bias.insert(c.dt_bias.end(), tile.dt_bias.begin(), tile.dt_bias.end());
  c.state.assign(static_cast<size_t>(B) * H * kD * kD, 0.01f);
  return c;
}

void bench_prefill(double bandwidth, int B, int64_t T, int H, Draw draw) {
  const Case c = tiled_case(B, T, H, draw);
  const size_t rows = static_cast<size_t>(B) * T * H;
  DeviceCase d(c);
  const int64_t n_slots = sm90::first_slot(c.N(), B);
  auto* records = reinterpret_cast<sm90::Record*>(d.workspace.get());
  const int repeats = rows > 1000000 ? 30 : 60;
  const Times all = time_us(repeats, [&] { d.run(); });
  const Times prep = time_us(repeats, [&] { LINNET_CUDA_OK(sm90::launch_prep(d.args, records, n_slots, stream())); });
  const Times scan = time_us(repeats, [&] { LINNET_CUDA_OK(sm90::launch_scan(d.args, records, stream())); });
  const double bytes = rows * 1282.0 + 2.0 * B * H * kD * kD * 4;
  char shape[64], more[96];
  std::snprintf(shape, sizeof shape, "B%d T%lld H%d %s", B, static_cast<long long>(T), H,
                kDrawNames[static_cast<int>(draw)]);
  std::snprintf(more, sizeof more, "prep %.1f scan %.1f", prep.median, scan.median);
  report("kda_prefill", shape, bytes / bandwidth, all, more);
}

void bench_decode(double bandwidth, int B) {
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

// Three prefills of B1 T8192 H32, for a profiler.
void profile() {
  const Case c = tiled_case(1, 8192, 32, Draw::trained);
  DeviceCase d(c);
  for (int i = 0; i < 3; i++) d.run();
  LINNET_CUDA_OK(cudaDeviceSynchronize());
}

// Records go to standard error as JSON lines; argv[2], when given, is appended to each: ,"gpu":"..","commit":".."
void bench(int argc, char** argv, bool prefill) {
  if (argc > 2) meta = argv[2];
  const double bandwidth = copy_bytes_per_us();
  std::printf("copy %.3f TB/s\n%-12s %-7s %-26s %6s %9s %20s %9s  bound\n", bandwidth * 1e-6, "op", "variant", "shape",
              "ratio", "time us", "p10..p90", "floor us");
  if (prefill) {
    bench_prefill(bandwidth, 1, 8192, 32, Draw::trained);
    bench_prefill(bandwidth, 1, 8192, 32, Draw::weak);
    bench_prefill(bandwidth, 1, 8192, 32, Draw::strong);
    bench_prefill(bandwidth, 1, 8192, 32, Draw::mixed);
    bench_prefill(bandwidth, 1, 8192, 32, Draw::bounded);
    bench_prefill(bandwidth, 1, 2048, 32, Draw::trained);
    bench_prefill(bandwidth, 8, 1024, 32, Draw::trained);
    bench_prefill(bandwidth, 1, 8192, 64, Draw::trained);
    bench_prefill(bandwidth, 1, 8192, 96, Draw::trained);
    bench_prefill(bandwidth, 1, 65536, 32, Draw::trained);
  }
  for (const int B : {1, 4, 8, 32, 64, 128, 256}) bench_decode(bandwidth, B);
}

}  // namespace linnet::ops::sm90_check
