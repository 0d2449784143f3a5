// Times the Hopper KDA prefill kernels against their floors: compulsory bytes over the copy bandwidth measured in the same run. Inputs
// random, more bytes a call than the L2 holds, medians of event times.
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/linear_attn/linear_attn_sm90_timing.cuh"

namespace linnet::ops::sm90_check {
namespace {

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
  const int repeats = rows > 1000000 ? 30 : 60;
  const Times all = time_us(repeats, [&] { d.run(); });
  const double bytes = rows * 1282.0 + 2.0 * B * H * kD * kD * 4;
  char shape[64];
  std::snprintf(shape, sizeof shape, "B%d T%lld H%d %s", B, static_cast<long long>(T), H,
                kDrawNames[static_cast<int>(draw)]);
  report("kda_prefill", shape, bytes / bandwidth, all, "");
}

// The time of the schedules of whole chains, by the number of scanning CTAs.
void tune_prefill(int B, int64_t T, int H) {
  const Case c = tiled_case(B, T, H, Draw::trained);
  DeviceCase d(c);
  const auto time = [&](sm90::Schedule schedule, int n_lanes) {
    DeviceArray<char> workspace(sm90::workspace_bytes(c.N(), B, H, schedule));
    return time_us(20,
                   [&] { LINNET_CUDA_OK(sm90::launch_prefill(d.args, workspace.get(), schedule, n_lanes, stream())); })
        .median;
  };
  std::printf("B%d T%lld H%d: in turn %.1f us; beside, by scanning CTAs:", B, static_cast<long long>(T), H,
              time(sm90::Schedule::in_turn, 0));
  for (int n_lanes = 20; n_lanes <= 56; n_lanes += 4)
    std::printf(" %d: %.1f", n_lanes, time(sm90::Schedule::beside, n_lanes));
  std::printf("; split:");
  for (int n_lanes = 16; n_lanes <= 32; n_lanes += 2)
    std::printf(" %d: %.1f", n_lanes, time(sm90::Schedule::split, n_lanes));
  std::printf("\n");
  std::fflush(stdout);
}

// All schedules where chains are few.
void tune_few(int64_t T, int H) {
  const Case c = tiled_case(1, T, H, Draw::trained);
  DeviceCase d(c);
  std::printf("B1 T%lld H%d:", static_cast<long long>(T), H);
  for (const auto schedule :
       {sm90::Schedule::beside, sm90::Schedule::split, sm90::Schedule::in_turn, sm90::Schedule::cut}) {
    DeviceArray<char> workspace(sm90::workspace_bytes(c.N(), 1, H, schedule));
    constexpr const char* kNames[] = {"beside", "split", "in turn", "cut"};
    std::printf(" %s %.1f us", kNames[static_cast<int>(schedule)],
                time_us(20, [&] {
                  LINNET_CUDA_OK(sm90::launch_prefill(d.args, workspace.get(), schedule, 0, stream()));
                }).median);
  }
  std::printf("%s\n", sm90::choose_schedule(T, 1, H, false, true) == sm90::Schedule::cut ? "; chosen: cut" : "");
}

}  // namespace

void tune() {
  tune_prefill(1, 8192, 32);
  tune_prefill(8, 1024, 32);
  tune_prefill(1, 8192, 64);
  tune_prefill(1, 8192, 96);
  tune_prefill(1, 2048, 32);
  tune_prefill(1, 1024, 32);
  for (const int H : {1, 2, 4, 8, 12, 16})
    for (const int64_t T : {2048, 8192, 65536}) tune_few(T, H);
}

// Prep's own kernel, into records of its own.
void prep_alone() {
  struct Shape {
    int B;
    int64_t T;
    int H;
    Draw draw;
  };
  for (const Shape& x :
       {Shape{1, 8192, 32, Draw::trained}, Shape{1, 8192, 32, Draw::bounded}, Shape{1, 2048, 32, Draw::trained},
        Shape{8, 1024, 32, Draw::trained}, Shape{1, 8192, 64, Draw::trained}, Shape{1, 8192, 96, Draw::trained}}) {
    const Case c = tiled_case(x.B, x.T, x.H, x.draw);
    DeviceCase d(c);
    const int64_t n_slots = sm90::first_slot(c.N(), c.B());
    DeviceArray<char> records(static_cast<size_t>(n_slots) * x.H * sizeof(sm90::Record));
    const Times t = time_us(40, [&] {
      LINNET_CUDA_OK(sm90::launch_prep(d.args, reinterpret_cast<sm90::Record*>(records.get()), n_slots, stream()));
    });
    std::printf("B%d T%lld H%d %s: prep alone %.1f us\n", x.B, static_cast<long long>(x.T), x.H,
                kDrawNames[static_cast<int>(x.draw)], t.median);
  }
}

// Three prefills of B1 T8192 H32, for a profiler.
void profile() {
  const Case c = tiled_case(1, 8192, 32, Draw::trained);
  DeviceCase d(c);
  for (int i = 0; i < 3; i++) d.run();
  LINNET_CUDA_OK(cudaDeviceSynchronize());
}

void bench(int argc, char** argv) {
  const double bandwidth = begin_bench(argc, argv);
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
  bench_prefill(bandwidth, 1, 8192, 4, Draw::trained);
  bench_prefill(bandwidth, 1, 65536, 4, Draw::trained);
}

}  // namespace linnet::ops::sm90_check
