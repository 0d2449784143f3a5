// The head with its loss and gradients against the rate of one product of this machine, measured in turn; the label starts
// with ratio = (time of 3 products of N x V x C at that rate) / time.
#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

#include "ops/bench_support.h"
#include "ops/cross_entropy/cross_entropy.h"
#include "ops/gemm/gemm_rates.h"

namespace linnet::ops {
namespace {

void cross_entropy(benchmark::State& state) {
  const int64_t N = state.range(1), C = state.range(2), V = state.range(3);
  ThreadPool pool(static_cast<int>(state.range(0)));
  std::vector<float> hidden = random_values(N * C, 1), nll(static_cast<size_t>(N));
  std::vector<float> dhidden(hidden.size()), dw(static_cast<size_t>(V * C));
  std::vector<bf16> w;
  for (float v : random_values(V * C, 2)) w.push_back(to_bf16(v));
  std::vector<int32_t> target;
  for (int64_t n = 0; n < N; ++n) target.push_back(static_cast<int32_t>(n * 31 % V));
  CrossEntropyArgs a{.hidden = ConstTensor::of(hidden.data(), {N, C}), .w = ConstTensor::of(w.data(), {V, C})};
  a.w_t = ConstTensor::of(w.data(), {C, V});  // other numbers, the same work
  a.target = ConstTensor::of(target.data(), {N}), a.nll = Tensor::of(nll.data(), {N});
  a.dhidden = Tensor::of(dhidden.data(), {N, C}), a.dw = Tensor::of(dw.data(), {V, C});
  a.scale = 1.0f / static_cast<float>(N);
  const Plan<CrossEntropyArgs> plan = plan_cross_entropy(a);
  Workspace workspace(plan.workspace_bytes(a, pool.size()));
  const Exec exec{pool, workspace};
  plan.run(a, exec);
  std::vector<double> ratios;
  const double flop = 3 * 2.0 * static_cast<double>(N * C * V);
  for (auto _ : state) {
    const double least = flop / measure_gemm_rate(pool, DType::bf16);
    const double seconds = seconds_of([&] { plan.run(a, exec); }).wall;
    state.SetIterationTime(seconds);
    ratios.push_back(least / seconds);
  }
  if (!std::isfinite(nll[0])) state.SkipWithError("result is not finite");
  state.counters["ratio"] = median(ratios);
  state.SetLabel(cat("ratio ", median(ratios), " of three products, ", plan.variant()));
}

BENCHMARK(cross_entropy)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond)
    ->Args({1, 2048, 512, 16384})
    ->Args({2, 2048, 512, 16384})
    ->Args({2, 1024, 512, 65536});

}  // namespace
}  // namespace linnet::ops
