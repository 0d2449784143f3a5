// Gradients of products against the forward product of the same shape, weights in bf16: the rate of dx and of dw over the
// forward's rate, measured in turn. The label starts with the two ratios, medians of (forward's time / gradient's time).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/bench_support.h"
#include "ops/gemm/gemm_bwd.h"

namespace linnet::ops {
namespace {

// `count` products of M tokens each against weights of their own; with gathered rows, from a pool of 4096 tokens.
struct Products {
  std::vector<float> x, dy, y, dx, dw;
  std::vector<bf16> w, w_t;
  std::vector<int32_t> rows;
  std::vector<GemmProblem> forward;
  std::vector<GemmBwdProblem> only_dx, only_dw;
  double flop;

  Products(int64_t count, int64_t M, int64_t N, int64_t K, bool gather)
      : x(random_values((gather ? 4096 : count * M) * K, 1)),
        dy(random_values(count * M * N, 2)),
        y(dy.size()),
        dx(static_cast<size_t>(count * M * K)),
        dw(static_cast<size_t>(count * N * K)),
        flop(2.0 * static_cast<double>(count * M * N * K)) {
    for (float v : random_values(count * N * K, 3)) w.push_back(to_bf16(v));
    w_t = w;
    const int64_t Mx = gather ? 4096 : M;
    for (int64_t i = 0; i < count * M; ++i) rows.push_back(static_cast<int32_t>(i * 37 % 4096));
    for (int64_t i = 0; i < count; ++i) {
      const ConstTensor xi = ConstTensor::of(x.data() + (gather ? 0 : i * M * K), {Mx, K});
      const ConstTensor dyi = ConstTensor::of(dy.data() + i * M * N, {M, N});
      const int32_t* const rows_i = gather ? rows.data() + i * M : nullptr;
      forward.push_back({.x = xi,
                         .w = ConstTensor::of(w.data() + i * N * K, {N, K}),
                         .y = Tensor::of(y.data() + i * M * N, {M, N}),
                         .rows = rows_i});
      only_dx.push_back({.w_t = ConstTensor::of(w_t.data() + i * N * K, {K, N}),
                         .dy = dyi,
                         .dx = Tensor::of(dx.data() + i * M * K, {M, K})});
      only_dw.push_back({.x = xi, .dy = dyi, .dw = Tensor::of(dw.data() + i * N * K, {N, K}), .rows = rows_i});
    }
  }
};

void compare(benchmark::State& state, const Products& p, int n_threads) {
  ThreadPool pool(n_threads);
  const GemmArgs forward{p.forward};
  const GemmBwdArgs dx{p.only_dx}, dw{p.only_dw};
  const auto plan = plan_gemm(forward);
  const auto plan_dx = plan_gemm_bwd(dx), plan_dw = plan_gemm_bwd(dw);
  Workspace workspace(std::max({plan.workspace_bytes(forward, n_threads), plan_dx.workspace_bytes(dx, n_threads),
                                plan_dw.workspace_bytes(dw, n_threads)}));
  const Exec exec{pool, workspace};
  std::vector<double> dx_ratios, dw_ratios, times;
  const auto run = [&] {
    times.push_back(seconds_of([&] { plan.run(forward, exec); }).wall);
    dx_ratios.push_back(times.back() / seconds_of([&] { plan_dx.run(dx, exec); }).wall);
    dw_ratios.push_back(times.back() / seconds_of([&] { plan_dw.run(dw, exec); }).wall);
  };
  run();
  times.clear(), dx_ratios.clear(), dw_ratios.clear();
  for (auto _ : state) {
    run();
    state.SetIterationTime(times.back() * (1 + 1 / dx_ratios.back() + 1 / dw_ratios.back()));
  }
  if (!std::isfinite(p.dx[0]) || !std::isfinite(p.dw[0])) state.SkipWithError("result is not finite");
  state.counters["dx"] = median(dx_ratios);
  state.counters["dw"] = median(dw_ratios);
  state.counters["forward_gflop_s"] = p.flop / median(times) * 1e-9;
  state.SetLabel(
      cat("dx ", median(dx_ratios), ", dw ", median(dw_ratios), " of the forward's rate, ", plan_dw.variant()));
}

void gemm_bwd_dense(benchmark::State& state) {
  compare(state, Products(1, state.range(1), state.range(2), state.range(3), false), static_cast<int>(state.range(0)));
}
void gemm_bwd_experts(benchmark::State& state) {
  compare(state, Products(64, state.range(1), state.range(2), state.range(3), true), static_cast<int>(state.range(0)));
}

#define LINNET_BENCH(name) BENCHMARK(name)->UseManualTime()->Unit(benchmark::kMicrosecond)
LINNET_BENCH(gemm_bwd_dense)
    ->Args({1, 4096, 384, 384})
    ->Args({2, 4096, 384, 384})
    ->Args({1, 4096, 512, 1024})
    ->Args({2, 4096, 512, 1024})
    ->Args({1, 4096, 1024, 512})
    ->Args({2, 4096, 1024, 512})
    ->Args({1, 4096, 1024, 1024})
    ->Args({2, 4096, 1024, 1024})
    ->Args({1, 4096, 1536, 384})
    ->Args({2, 4096, 1536, 384})
    ->Args({2, 4096, 384, 1536})
    ->Args({2, 4096, 1536, 1536});
LINNET_BENCH(gemm_bwd_experts)
    ->Args({2, 10, 128, 384})
    ->Args({2, 64, 128, 384})
    ->Args({2, 500, 128, 384})
    ->Args({2, 100, 384, 128})
    ->Args({2, 100, 512, 1024});

}  // namespace
}  // namespace linnet::ops
