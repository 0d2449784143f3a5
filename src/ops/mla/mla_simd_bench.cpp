// Latent attention against its floors: the read of the cache, and the multiply-add peak in f32. Floors are measured in
// the same process, in turn with what they are compared to; the label starts with ratio = median of floor / time.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/mla/mla_simd_bench.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Independent chains of `steps` multiply-adds; returns the flop done.
double multiply_add(int64_t steps, float* sink) {
  const hn::ScalableTag<float> d;
  constexpr int kChains = 12;  // 2 units of latency 4 need 8; two registers stay for the constants where there are 16
  const auto a = hn::Set(d, 0.5f), b = hn::Set(d, 0.25f);
  hn::Vec<decltype(d)> sum[kChains];
  for (int i = 0; i < kChains; ++i) sum[i] = hn::Set(d, sink[i]);  // all different: equal chains would be merged
  for (int64_t step = 0; step < steps; ++step)
    for (int i = 0; i < kChains; ++i) sum[i] = hn::MulAdd(sum[i], a, b);
  for (int i = 0; i < kChains; ++i) hn::StoreU(sum[i], d, sink + i * static_cast<int64_t>(hn::Lanes(d)));
  return 2.0 * kChains * static_cast<double>(steps) * static_cast<double>(hn::Lanes(d));
}

float read_all(const float* p, int64_t n) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  for (int64_t i = 0; i + 4 * L <= n; i += 4 * L) {
    s0 = hn::Add(s0, hn::LoadU(d, p + i)), s1 = hn::Add(s1, hn::LoadU(d, p + i + L));
    s2 = hn::Add(s2, hn::LoadU(d, p + i + 2 * L)), s3 = hn::Add(s3, hn::LoadU(d, p + i + 3 * L));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/rng.h"
#include "ops/bench_support.h"
#include "ops/mla/mla.h"

namespace linnet::ops {
namespace {
HWY_EXPORT(multiply_add);
HWY_EXPORT(read_all);

constexpr int64_t kHeads = 8, kDn = 128, kDr = 64, kDv = 128, kR = 512, kRow = kR + kDr;

// Flop a second of all threads together, over about 4 ms.
double measure_flop_rate(ThreadPool& pool) {
  std::vector<double> flop(static_cast<size_t>(pool.size()));
  const double seconds = seconds_of([&] {
                           pool.parallel_for(pool.size(), 1, [&](int64_t begin, int64_t end, int) {
                             for (int64_t i = begin; i < end; ++i) {
                               float sink[12 * 16];
                               for (int j = 0; j < 12 * 16; ++j) sink[j] = static_cast<float>(j);
                               flop[static_cast<size_t>(i)] = HWY_DYNAMIC_DISPATCH(multiply_add)(2'000'000, sink);
                               benchmark::DoNotOptimize(sink);
                             }
                           });
                         }).wall;
  double sum = 0;
  for (double f : flop) sum += f;
  return sum / seconds;
}

double measure_read_seconds(ThreadPool& pool, const void* memory, int64_t bytes) {
  const int64_t floats = bytes / 4, piece = 1 << 16;
  return seconds_of([&] {
           pool.parallel_for(floats, piece, [&](int64_t begin, int64_t end, int) {
             benchmark::DoNotOptimize(
                 HWY_DYNAMIC_DISPATCH(read_all)(static_cast<const float*>(memory) + begin, end - begin));
           });
         })
      .wall;
}

struct Problem {
  std::vector<uint16_t> cache, kv_b;
  std::vector<float> q, out;
  std::vector<int32_t> seq_start;
  std::vector<const std::byte*> blocks;
  MlaSequence seq;
  MlaArgs args;

  Problem(int64_t past, int64_t now)
      : cache(random_bf16(mla_blocks(past + now) * kMlaBlock * kRow, 1, 1)),
        kv_b(random_bf16(kHeads * (kDn + kDv) * kR, 2, 1 / std::sqrt(static_cast<double>(kR)))),
        q(static_cast<size_t>(now * kHeads * (kDn + kDr))),
        out(static_cast<size_t>(now * kHeads * kDv)),
        seq_start{0, static_cast<int32_t>(now)},
        blocks(static_cast<size_t>(mla_blocks(past + now))),
        seq{blocks.data(), past} {
    mla_dense_blocks(cache.data(), past + now, kRow * 2, blocks.data());
    std::reverse(blocks.begin(), blocks.end());  // blocks lie where there was room, not in order
    const Rng rng(3);
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(rng.normal(i));
    args = {.q = ConstTensor::of(q.data(), {now, kHeads, kDn + kDr}),
            .kv_b = ConstTensor(kv_b.data(), DType::bf16, {kHeads * (kDn + kDv), kR}),
            .seq_start = ConstTensor::of(seq_start.data(), {2}),
            .seqs = &seq,
            .cache_dtype = DType::bf16,
            .R = kR,
            .Dn = kDn,
            .Dr = kDr,
            .Dv = kDv,
            .out = Tensor::of(out.data(), {now, kHeads, kDv}),
            .scale = 1 / std::sqrt(static_cast<float>(kDn + kDr))};
  }

  static std::vector<uint16_t> random_bf16(int64_t n, uint64_t seed, double stddev) {
    std::vector<uint16_t> v(static_cast<size_t>(n));
    const Rng rng(seed);
    for (size_t i = 0; i < v.size(); ++i)
      v[i] = to_bf16(static_cast<float>(stddev * (rng.uniform(i) * 2 - 1) * 1.7)).bits;
    return v;
  }
};

// Runs the op once an iteration, its floor just before it; floor(flop_rate) returns seconds.
template <class Floor>
void against_floor(benchmark::State& state, Problem& problem, const char* bound, Floor&& floor) {
  ThreadPool pool;
  const Plan<MlaArgs> plan = plan_mla(problem.args);
  Workspace workspace(plan.workspace_bytes(problem.args, pool.size()));
  const Exec exec{pool, workspace};
  plan.run(problem.args, exec);
  std::vector<double> ratios, floors;
  for (auto _ : state) {
    floors.push_back(floor(pool));
    const double seconds = seconds_of([&] { plan.run(problem.args, exec); }).wall;
    state.SetIterationTime(seconds);
    ratios.push_back(floors.back() / seconds);
  }
  if (!std::isfinite(problem.out[0])) state.SkipWithError("result is not finite");
  state.counters["floor_us"] = median(floors) * 1e6;
  state.counters["ratio"] = median(ratios);
  state.counters["threads"] = pool.size();
  state.SetLabel(cat("ratio ", median(ratios), " of ", bound, ", ", name_of(active_isa())));
}

// 8 heads over a bf16 cache of range(0) tokens. The floor is what takes longer: reading the cache, or 2,176 flop a head
// and key.
void mla_decode(benchmark::State& state) {
  const int64_t keys = state.range(0), bytes = keys * kRow * 2;
  Problem problem(keys - 1, 1);
  const double flop = static_cast<double>(kHeads * keys * (2 * kRow + 2 * kR) + kHeads * 2 * kR * (kDn + kDv));
  std::vector<double> reads;
  against_floor(state, problem, "max(read, multiply-add)", [&](ThreadPool& pool) {
    reads.push_back(measure_read_seconds(pool, problem.cache.data(), bytes));
    return std::max(reads.back(), flop / measure_flop_rate(pool));
  });
  state.counters["read_us"] = median(reads) * 1e6;
}
BENCHMARK(mla_decode)->Arg(4096)->Arg(65536)->UseManualTime()->Unit(benchmark::kMicrosecond);

void mla_prefill(benchmark::State& state) {  // range(0) past tokens, range(1) new ones
  const int64_t past = state.range(0), now = state.range(1);
  Problem problem(past, now);
  const double pairs = static_cast<double>(now) * (static_cast<double>(past) + static_cast<double>(now + 1) / 2);
  const double kv_b = 2.0 * kR * (kDn + kDv);
  const double absorbed = pairs * (2 * kRow + 2 * kR) + static_cast<double>(now) * kv_b;
  const double expanded = pairs * 2 * (kDn + kDr + kDv) + static_cast<double>(past + now) * kv_b;
  const double flop = kHeads * std::min(absorbed, expanded);
  against_floor(state, problem, "multiply-add peak", [&](ThreadPool& pool) { return flop / measure_flop_rate(pool); });
  state.counters["gflop"] = flop * 1e-9;
}
BENCHMARK(mla_prefill)
    ->Args({0, 2048})
    ->Args({4096, 16})
    ->Args({4096, 512})
    ->UseManualTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace linnet::ops
#endif
