// Optimizer steps against their floors, measured in turn: AdamW against reading memory at the rate of the machine (it moves
// 28 bytes a weight), Muon against the rate of one large product. The label starts with ratio = median of floor / time.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/bench_support.h"
#include "ops/gemm/gemm_rates.h"
#include "ops/optim/optim.h"

namespace linnet::ops {
namespace {

template <class Floor, class F>
void against(benchmark::State& state, const Floor& floor, const F& f, const char* bound) {
  f();
  std::vector<double> ratios;
  for (auto _ : state) {
    const double least = floor();
    const double seconds = seconds_of(f).wall;
    state.SetIterationTime(seconds);
    ratios.push_back(least / seconds);
  }
  state.counters["ratio"] = median(ratios);
  state.SetLabel(cat("ratio ", median(ratios), " of ", bound));
}

void adamw(benchmark::State& state) {
  const int64_t n = 16 << 20;
  ThreadPool pool(static_cast<int>(state.range(0)));
  Workspace nothing;
  std::vector<float> w = random_values(n, 1), m = w, v(w.size(), 1.0f), grad = w;
  const AdamWArgs a{.w = Tensor::of(w.data(), {n}),
                    .m = Tensor::of(m.data(), {n}),
                    .v = Tensor::of(v.data(), {n}),
                    .grad = ConstTensor::of(grad.data(), {n}),
                    .lr = 1e-3f,
                    .step = 10};
  const auto plan = plan_adamw(a);
  against(
      state, [&] { return 28.0 * static_cast<double>(n) / measure_read_bandwidth(pool); },
      [&] {
        plan.run(a, Exec{pool, nothing});
      },
      "reading 28 bytes a weight");
}

void muon(benchmark::State& state) {
  const int64_t count = state.range(1), N = state.range(2), K = state.range(3), n = count * N * K;
  ThreadPool pool(static_cast<int>(state.range(0)));
  std::vector<float> w = random_values(n, 1), m = w, grad = random_values(n, 2);
  std::vector<MuonMatrix> matrices;
  for (int64_t i = 0; i < count; ++i)
    matrices.push_back({.w = Tensor::of(w.data() + i * N * K, {N, K}),
                        .m = Tensor::of(m.data() + i * N * K, {N, K}),
                        .grad = ConstTensor::of(grad.data() + i * N * K, {N, K})});
  const MuonArgs a{.matrices = matrices, .lr = 1e-3f};
  const auto plan = plan_muon(a);
  Workspace workspace(plan.workspace_bytes(a, pool.size()));
  const double R = static_cast<double>(std::min(N, K)), S = static_cast<double>(std::max(N, K));
  const double flop = static_cast<double>(count) * 5 * (4 * R * R * S + 2 * R * R * R);
  against(
      state, [&] { return flop / measure_gemm_rate(pool, DType::bf16); },
      [&] {
        plan.run(a, Exec{pool, workspace});
      },
      "the products' rate at 2048 cubed");
}

#define LINNET_BENCH(name) BENCHMARK(name)->UseManualTime()->Unit(benchmark::kMillisecond)
LINNET_BENCH(adamw)->Arg(1)->Arg(2);
LINNET_BENCH(muon)
    ->Args({1, 64, 384, 128})
    ->Args({2, 64, 384, 128})
    ->Args({1, 64, 128, 384})
    ->Args({2, 4, 512, 512})
    ->Args({2, 1, 1536, 384})
    ->Args({2, 1, 1024, 1024});

}  // namespace
}  // namespace linnet::ops
