// Backward passes that only stream tokens, against their floor: the bytes they must move at the rate of out = a + b over the same
// amount of memory. One thread, its processor time, floor and operator in turn; the label starts with ratio = median floor / median
// time. N = 2,048 tokens of the published model's widths: beyond the caches.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <vector>

#include "core/rng.h"
#include "ops/activation/activation_bwd.h"
#include "ops/bench_support.h"
#include "ops/moe/moe_bwd.h"
#include "ops/norm/norm_bwd.h"
#include "ops/short_conv/short_conv_bwd.h"

namespace linnet::ops {
namespace {

constexpr int64_t kTokens = 2048;

double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Random matrices, made one after another.
struct Memory {
  std::vector<Buffer> buffers;
  Tensor matrix(int64_t rows, int64_t width) {
    buffers.emplace_back(static_cast<size_t>(rows * width) * sizeof(float));
    float* p = reinterpret_cast<float*>(buffers.back().data());
    const Rng rng(buffers.size());
    for (int64_t i = 0; i < rows * width; ++i) p[i] = static_cast<float>(4 * rng.uniform(static_cast<uint64_t>(i)) - 2);
    return Tensor::of(p, {rows, width});
  }
  Tensor heads(int64_t H, int64_t D) { return matrix(kTokens, H * D).reshaped({kTokens, H, D}); }
  Tensor vector(int64_t width) { return matrix(1, width).reshaped({width}); }
};

// out = a + b over matrices of 18 MiB or more each; returns bytes a second.
double stream_rate(const Memory& memory, Tensor out) {
  const Buffer &a = memory.buffers[0], &b = memory.buffers[1];
  const int64_t n = std::min(out.elements(), static_cast<int64_t>(std::min(a.size(), b.size()) / sizeof(float)));
  const float *x = reinterpret_cast<const float*>(a.data()), *y = reinterpret_cast<const float*>(b.data());
  float* z = out.as<float>();
  const double start = thread_seconds();
  for (int64_t i = 0; i < n; ++i) z[i] = x[i] + y[i];
  benchmark::DoNotOptimize(z);
  benchmark::ClobberMemory();
  return 12.0 * static_cast<double>(n) / (thread_seconds() - start);
}

// The first two matrices of `memory` are the streams of the floor.
template <class Args>
void run(benchmark::State& state, Memory& memory, const Plan<Args>& plan, const Args& args, double bytes) {
  const Tensor out = memory.matrix(memory.buffers[0].size() / sizeof(float) / 2048, 2048);
  ThreadPool pool(1);
  Workspace workspace(plan.workspace_bytes(args, 1));
  const Exec exec{pool, workspace};
  plan.run(args, exec);
  std::vector<double> seconds, floor_seconds;
  for (auto _ : state) {
    floor_seconds.push_back(bytes / stream_rate(memory, out));
    const double start = thread_seconds();
    plan.run(args, exec);
    seconds.push_back(thread_seconds() - start);
    state.SetIterationTime(seconds.back());
  }
  const double floor = median(floor_seconds), time = median(seconds);
  char label[120];
  std::snprintf(label, sizeof label, "ratio %.2f  time %.0f us  floor %.0f us  %.1f GB/s", floor / time, 1e6 * time,
                1e6 * floor, 1e-9 * bytes / time);
  state.SetLabel(label);
}

void swiglu_bwd(benchmark::State& state) {
  constexpr int64_t I = 4096;
  Memory m;
  const SwigluBwdArgs args{.gate = m.matrix(kTokens, I),
                           .up = m.matrix(kTokens, I),
                           .dy = m.matrix(kTokens, I),
                           .dgate = m.matrix(kTokens, I),
                           .dup = m.matrix(kTokens, I)};
  run(state, m, plan_swiglu_bwd(args), args, 20.0 * kTokens * I);
}

void rms_norm_bwd(benchmark::State& state) {
  constexpr int64_t C = 2304;
  Memory m;
  const bool accumulate = state.range(0) != 0;
  const RmsNormBwdArgs args{.x = m.matrix(kTokens, C),
                            .weight = m.vector(C),
                            .dy = m.matrix(kTokens, C),
                            .dx = m.matrix(kTokens, C),
                            .dweight = m.vector(C),
                            .eps = 1e-5f,
                            .accumulate = accumulate};
  std::swap(m.buffers[1], m.buffers[2]);
  run(state, m, plan_rms_norm_bwd(args), args, (accumulate ? 16.0 : 12.0) * kTokens * C);
}

void l2_norm_bwd(benchmark::State& state) {
  Memory m;
  const L2NormBwdArgs args{.x = m.heads(32, 128), .dy = m.heads(32, 128), .dx = m.heads(32, 128), .eps = 1e-6f};
  run(state, m, plan_l2_norm_bwd(args), args, 12.0 * kTokens * 4096);
}

void gated_norm_bwd(benchmark::State& state) {
  Memory m;
  const GatedNormBwdArgs args{.x = m.heads(32, 128),
                              .gate = m.heads(32, 128),
                              .weight = m.vector(128),
                              .dy = m.heads(32, 128),
                              .dx = m.heads(32, 128),
                              .dgate = m.heads(32, 128),
                              .dweight = m.vector(128),
                              .eps = 1e-5f};
  run(state, m, plan_gated_norm_bwd(args), args, 20.0 * kTokens * 4096);
}

void short_conv_bwd(benchmark::State& state) {
  constexpr int64_t C = 4096;
  Memory m;
  const int32_t starts[] = {0, kTokens / 3, kTokens};
  const ShortConvBwdArgs args{.x = m.matrix(kTokens, C),
                              .weight = m.matrix(C, 4),
                              .seq_start = ConstTensor::of(starts, {3}),
                              .state = nullptr,
                              .dy = m.matrix(kTokens, C),
                              .dx = m.matrix(kTokens, C),
                              .dweight = m.matrix(C, 4)};
  std::swap(m.buffers[1], m.buffers[2]);
  run(state, m, plan_short_conv_bwd(args), args, 12.0 * kTokens * C);
}

void combine_bwd(benchmark::State& state) {
  constexpr int64_t K = 8, C = 2304, N = kTokens / K;
  Memory m;
  std::vector<int32_t> at(static_cast<size_t>(N * K));
  for (size_t i = 0; i < at.size(); ++i) at[i] = static_cast<int32_t>(i * 771 % at.size());
  const CombineBwdArgs args{.x = m.matrix(N * K, C),
                            .position = ConstTensor::of(at.data(), {N, K}),
                            .weights = m.matrix(N, K),
                            .dy = m.matrix(N, C),
                            .dx = m.matrix(N * K, C),
                            .dweights = m.matrix(N, K)};
  std::swap(m.buffers[1], m.buffers[3]);
  run(state, m, plan_combine_bwd(args), args, 4.0 * (2 * K + 1) * N * C);
}

BENCHMARK(swiglu_bwd)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(rms_norm_bwd)->Arg(0)->Arg(1)->ArgName("accumulate")->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(l2_norm_bwd)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(gated_norm_bwd)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(short_conv_bwd)->UseManualTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(combine_bwd)->UseManualTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace linnet::ops
