// Products against their floors: the peak of the multiply instruction for tiles, the bandwidth of reading the weights
// for few rows. Floors are measured in the same process, in turn with what they are compared to; the label starts with
// ratio = median of floor / time.
#if defined(__x86_64__)
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/rng.h"
#include "ops/bench_support.h"
#include "ops/gemm/gemm.h"
#include "ops/gemm/gemm_rates.h"

namespace linnet::ops {
namespace {

// Twelve independent chains of one instruction, operands in registers that start as zero; returns the flop done.
// Assembly, because a compiler may merge, reorder or spill chains of intrinsics.
#define LINNET_CHAINS(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11)
#define LINNET_CHAIN_CLOBBERS \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", "xmm15"
constexpr int64_t kSteps = 500'000;

#define LINNET_PEAK(name, op, flop)                                                                         \
  double name() {                                                                                           \
    asm volatile("vzeroall" ::: LINNET_CHAIN_CLOBBERS);                                                     \
    for (int64_t step = 0; step < kSteps; ++step) asm volatile(LINNET_CHAINS(op)::: LINNET_CHAIN_CLOBBERS); \
    asm volatile("vzeroupper" ::: LINNET_CHAIN_CLOBBERS);                                                   \
    return 12.0 * kSteps * flop;                                                                            \
  }
#define LINNET_YMM_FMA(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n"
#define LINNET_ZMM_FMA(i) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" #i "\n"
#define LINNET_ZMM_DOT(i) "vdpbf16ps %%zmm14, %%zmm15, %%zmm" #i "\n"
LINNET_PEAK(fma_avx2, LINNET_YMM_FMA, 8 * 2)
LINNET_PEAK(fma_avx512, LINNET_ZMM_FMA, 16 * 2)
LINNET_PEAK(dot_avx512_bf16, LINNET_ZMM_DOT, 16 * 4)

double dot_amx() {
  alignas(64) uint8_t config[64] = {1};
  for (int tile = 0; tile < 6; ++tile) config[16 + 2 * tile] = 64, config[48 + tile] = 16;
  asm volatile("ldtilecfg %0" ::"m"(config));
  for (int64_t step = 0; step < kSteps / 16; ++step)
    asm volatile(
        "tdpbf16ps %%tmm5, %%tmm4, %%tmm0\n tdpbf16ps %%tmm5, %%tmm4, %%tmm1\n"
        "tdpbf16ps %%tmm5, %%tmm4, %%tmm2\n tdpbf16ps %%tmm5, %%tmm4, %%tmm3\n" ::);
  asm volatile("tilerelease");
  return 4.0 * (kSteps / 16) * 16 * 16 * 32 * 2;
}

struct Peak {
  const char* name;
  double (*run)();
};

// The fastest multiply instruction that the path of these weights has at the active level.
Peak peak_of(DType weights) {
  const Isa isa = active_isa();
  if (weights == DType::bf16 && isa == Isa::amx) return {"tdpbf16ps", dot_amx};
  if (weights == DType::bf16 && isa == Isa::avx512_bf16) return {"vdpbf16ps", dot_avx512_bf16};
  return isa >= Isa::avx512 ? Peak{"zmm fma", fma_avx512} : Peak{"ymm fma", fma_avx2};
}

double measure_flop_rate(ThreadPool& pool, const Peak& peak) {
  std::vector<double> flop(static_cast<size_t>(pool.size()));
  const double seconds = seconds_of([&] {
                           pool.parallel_for(pool.size(), 1, [&](int64_t begin, int64_t end, int) {
                             for (int64_t i = begin; i < end; ++i) flop[static_cast<size_t>(i)] = peak.run();
                           });
                         }).wall;
  double sum = 0;
  for (double f : flop) sum += f;
  return sum / seconds;
}

std::vector<std::byte> random_values(int64_t n, DType dtype, uint64_t seed) {
  std::vector<std::byte> memory(static_cast<size_t>(n * size_of(dtype)));
  const Rng rng(seed);
  const int64_t distinct = std::min<int64_t>(n, 1 << 20);
  for (int64_t i = 0; i < distinct; ++i) {
    const float v = static_cast<float>(2 * rng.uniform(static_cast<uint64_t>(i)) - 1);
    if (dtype == DType::bf16) reinterpret_cast<bf16*>(memory.data())[i] = to_bf16(v);
    else reinterpret_cast<float*>(memory.data())[i] = v;
  }
  const auto period = static_cast<std::ptrdiff_t>(distinct * size_of(dtype));
  for (std::byte* at = memory.data() + period; at < memory.data() + memory.size(); at += period)
    std::copy_n(memory.data(), std::min(period, memory.data() + memory.size() - at), at);
  return memory;
}

// `count` products with weights of their own.
struct Batch {
  std::vector<std::byte> x, w, y;
  std::vector<std::vector<int32_t>> rows;
  std::vector<GemmProblem> problems;
  double flop = 0;

  Batch(int64_t count, int64_t tokens, int64_t N, int64_t K, DType dtype)
      : x(random_values(tokens * K, DType::f32, 1)), w(random_values(count * N * K, dtype, 2)) {}
};

Batch dense(int64_t count, int64_t M, int64_t N, int64_t K, DType dtype) {
  Batch b(count, M, N, K, dtype);
  b.y.resize(static_cast<size_t>(count * M * N * 4));
  for (int64_t i = 0; i < count; ++i)
    b.problems.push_back({.x = ConstTensor(b.x.data(), DType::f32, {M, K}),
                          .w = ConstTensor(b.w.data() + i * N * K * size_of(dtype), dtype, {N, K}),
                          .y = Tensor(b.y.data() + i * M * N * 4, DType::f32, {M, N})});
  b.flop = 2.0 * static_cast<double>(count * M * N * K);
  return b;
}

// Experts with between `fewest` and three times as many of the tokens each, scattered; gate and up of each share their
// rows.
Batch experts(int64_t count, int64_t fewest, int64_t N, int64_t K) {
  const int64_t tokens = 2048;
  Batch b(2 * count, tokens, N, K, DType::bf16);
  b.y.resize(static_cast<size_t>(2 * count * 3 * fewest * N * 4));
  const Rng rng(3);
  for (int64_t e = 0; e < count; ++e) {
    const int64_t M =
        fewest + static_cast<int64_t>(rng.bits(static_cast<uint64_t>(e)) % static_cast<uint64_t>(2 * fewest));
    std::vector<int32_t>& rows = b.rows.emplace_back();
    for (int64_t m = 0; m < M; ++m) rows.push_back(static_cast<int32_t>((m * tokens / M + e) % tokens));
    for (int64_t i = 2 * e; i < 2 * e + 2; ++i)
      b.problems.push_back({.x = ConstTensor(b.x.data(), DType::f32, {tokens, K}),
                            .w = ConstTensor(b.w.data() + i * N * K * 2, DType::bf16, {N, K}),
                            .y = Tensor(b.y.data() + i * 3 * fewest * N * 4, DType::f32, {M, N}),
                            .rows = rows.data()});
    b.flop += 2 * 2.0 * static_cast<double>(M * N * K);
  }
  return b;
}

// Runs the batch once an iteration, its floor just before it; floor(pool) returns seconds.
template <class Floor>
void against_floor(benchmark::State& state, const Batch& batch, const char* bound, const Floor& floor) {
  ThreadPool pool;
  const GemmArgs args{batch.problems};
  const Plan<GemmArgs> plan = plan_gemm(args);
  Workspace workspace(plan.workspace_bytes(args, pool.size()));
  const Exec exec{pool, workspace};
  plan.run(args, exec);
  std::vector<double> ratios, times;
  for (auto _ : state) {
    const double least = floor(pool);
    times.push_back(seconds_of([&] { plan.run(args, exec); }).wall);
    state.SetIterationTime(times.back());
    ratios.push_back(least / times.back());
  }
  if (!std::isfinite(reinterpret_cast<const float*>(batch.y.data())[0])) state.SkipWithError("result is not finite");
  state.counters["gflop_s"] = batch.flop / median(times) * 1e-9;
  state.counters["gb_s"] = static_cast<double>(batch.w.size()) / median(times) * 1e-9;
  state.counters["ratio"] = median(ratios);
  state.counters["threads"] = pool.size();
  state.SetLabel(cat("ratio ", median(ratios), " of ", bound, ", ", plan.variant()));
}

void against_peak(benchmark::State& state, const Batch& batch, DType weights) {
  const Peak peak = peak_of(weights);
  against_floor(state, batch, peak.name, [&](ThreadPool& pool) { return batch.flop / measure_flop_rate(pool, peak); });
}

void gemm_bf16(benchmark::State& state) {
  against_peak(state, dense(1, state.range(0), state.range(1), state.range(2), DType::bf16), DType::bf16);
}
void gemm_f32(benchmark::State& state) {
  against_peak(state, dense(1, state.range(0), state.range(1), state.range(2), DType::f32), DType::f32);
}
void gemm_experts(benchmark::State& state) {
  against_peak(state, experts(32, state.range(0), state.range(1), state.range(2)), DType::bf16);
}

// More weights than any cache holds, few rows of x. Above four rows the f32 multiply-adds take longer than the reading.
void gemm_few_rows(benchmark::State& state) {
  const DType dtype = state.range(1) == 2 ? DType::bf16 : DType::f32;
  const Batch batch = dense(420'000'000 / (1024 * 1024 * state.range(1)), state.range(0), 1024, 1024, dtype);
  const double flop = batch.flop, bytes = static_cast<double>(batch.w.size());
  const Peak peak = peak_of(DType::f32);
  double bandwidth = 0;
  int64_t iteration = 0;
  against_floor(state, batch, "max(read, multiply-add)", [&](ThreadPool& pool) {
    if (iteration++ % 32 == 0) bandwidth = std::max(bandwidth, measure_read_bandwidth(pool));  // takes a quarter second
    return std::max(bytes / bandwidth, flop / measure_flop_rate(pool, peak));
  });
  state.counters["read_gb_s"] = bandwidth * 1e-9;
}

#define LINNET_BENCH(name) BENCHMARK(name)->UseManualTime()->Unit(benchmark::kMicrosecond)
LINNET_BENCH(gemm_bf16)
    ->Args({2048, 2048, 2048})
    ->Args({2048, 1024, 1024})
    ->Args({2048, 512, 1024})
    ->Args({2048, 2304, 2304})
    ->Args({2048, 1024, 9216})
    ->Args({2048, 512, 64})
    ->Args({64, 1024, 1024});
LINNET_BENCH(gemm_f32)->Args({2048, 1024, 1024})->Args({64, 1024, 1024});
LINNET_BENCH(gemm_experts)->Args({64, 512, 1024})->Args({64, 1024, 512})->Args({16, 512, 1024});
LINNET_BENCH(gemm_few_rows)->ArgsProduct({{1, 2, 4, 8}, {2}})->Args({1, 4});

}  // namespace
}  // namespace linnet::ops
#endif
