// The recurrent core against its floors: prefill against the multiply-add peak in f32, decode against reading and
// writing the states once. Floors are measured in the same process, in turn with what they are compared to; the label
// starts with ratio = median of floor / time. cpu_ratio is the same in processor time, which says more where other
// programs run. Layout as the KDA layer has it: q, k and v are columns of one matrix.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear_attn/linear_attn_simd_bench.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int kChains = 12;  // two units of latency 4 need 8; four registers of 16 stay for constants

// Chains of multiply-adds that do not wait for each other; returns the flop done.
double multiply_adds(int64_t steps, float* sink) {
  const hn::ScalableTag<float> d;
  const auto a = hn::Set(d, 0.5f), b = hn::Set(d, 0.25f);
  hn::Vec<decltype(d)> sum[kChains];
  for (int i = 0; i < kChains; ++i) sum[i] = hn::Set(d, sink[i]);  // all different: equal chains would be merged
  for (int64_t step = 0; step < steps; ++step)
    for (int i = 0; i < kChains; ++i) sum[i] = hn::MulAdd(sum[i], a, b);
  for (int i = 0; i < kChains; ++i) sink[i] = hn::GetLane(sum[i]);
  return 2.0 * kChains * static_cast<double>(steps) * static_cast<double>(hn::Lanes(d));
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "core/rng.h"
#include "ops/bench_support.h"
#include "ops/linear_attn/linear_attn.h"

namespace linnet::ops {
namespace {
HWY_EXPORT(multiply_adds);

constexpr int64_t kHeads = 8, kD = 128, kWidth = kHeads * kD;

// The time of `flop` multiply-adds by all threads together, from a few milliseconds of them.
Seconds multiply_add_floor(ThreadPool& pool, double flop) {
  std::vector<double> done(static_cast<size_t>(pool.size()));
  const Seconds seconds = seconds_of([&] {
    pool.parallel_for(pool.size(), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        float sink[16];
        for (int j = 0; j < 16; ++j) sink[j] = static_cast<float>(j);
        done[static_cast<size_t>(i)] = HWY_DYNAMIC_DISPATCH(multiply_adds)(1'000'000, sink);
        benchmark::DoNotOptimize(sink);
      }
    });
  });
  const double share = flop / std::accumulate(done.begin(), done.end(), 0.0);
  return {seconds.wall * share, seconds.cpu * share};
}

// Random inputs of B sequences of T tokens, and `n_states` sets of B states to take in turn.
struct Problem {
  std::vector<float> qkv, log_decay, beta, out;
  std::vector<int32_t> seq_start;
  std::vector<Buffer> memory;
  std::vector<std::vector<float*>> states;
  LinearAttnArgs args;

  Problem(int64_t B, int64_t T, Decay decay, bool delta, double gate, int64_t n_states)
      : qkv(static_cast<size_t>(B * T * 3 * kWidth)), beta(static_cast<size_t>(B * T * kHeads)), out(B * T * kWidth) {
    const int64_t N = B * T, gate_width = decay == Decay::per_channel ? kWidth : kHeads;
    const Rng rng(1);
    uint64_t at = 0;
    const float unit = 1 / std::sqrt(static_cast<float>(kD));  // keys of about unit length
    for (float& x : qkv) x = static_cast<float>(2 * rng.uniform(at++) - 1) * 1.7f * unit;
    for (float& x : beta) x = static_cast<float>(rng.uniform(at++));
    log_decay.resize(static_cast<size_t>(N * gate_width));
    for (float& x : log_decay) x = static_cast<float>(2 * gate * rng.uniform(at++));
    for (int64_t b = 0; b <= B; ++b) seq_start.push_back(static_cast<int32_t>(b * T));
    for (int64_t s = 0; s < n_states; ++s) {
      memory.emplace_back(static_cast<size_t>(B * state_bytes()));
      std::fill_n(reinterpret_cast<float*>(memory.back().data()), B * state_bytes() / 4, 0.1f);
      states.emplace_back();
      for (int64_t b = 0; b < B; ++b)
        states.back().push_back(reinterpret_cast<float*>(memory.back().data() + b * state_bytes()));
    }
    const auto columns = [&](int64_t first) {
      ConstTensor t = ConstTensor::of(qkv.data() + first * kWidth, {N, kHeads, kD});
      t.row_stride = 3 * kWidth;
      return t;
    };
    args = {.q = columns(0),
            .k = columns(1),
            .v = columns(2),
            .log_decay = decay == Decay::per_channel ? ConstTensor::of(log_decay.data(), {N, kHeads, kD})
                                                     : ConstTensor::of(log_decay.data(), {N, kHeads}),
            .beta = ConstTensor::of(beta.data(), {N, kHeads}),
            .seq_start = ConstTensor::of(seq_start.data(), {B + 1}),
            .state = states[0].data(),
            .out = Tensor::of(out.data(), {N, kHeads, kD}),
            .scale = unit,
            .decay = decay,
            .delta = delta};
  }
  static int64_t state_bytes() { return kHeads * kD * kD * 4; }
};

// Runs the op once an iteration, its floor just before it; floor(pool) returns Seconds.
template <class Floor>
void against_floor(benchmark::State& state, Problem& problem, const char* bound, Floor&& floor) {
  ThreadPool pool;
  const Plan<LinearAttnArgs> plan = plan_linear_attn(problem.args);
  Workspace workspace(plan.workspace_bytes(problem.args, pool.size()));
  const Exec exec{pool, workspace};
  plan.run(problem.args, exec);
  std::vector<double> ratios, cpu_ratios, cpu_times, floors;
  size_t turn = 0;
  for (auto _ : state) {
    const Seconds least = floor(pool);
    problem.args.state = problem.states[turn++ % problem.states.size()].data();
    const Seconds time = seconds_of([&] { plan.run(problem.args, exec); });
    state.SetIterationTime(time.wall);
    floors.push_back(least.wall), cpu_times.push_back(time.cpu);
    ratios.push_back(least.wall / time.wall), cpu_ratios.push_back(least.cpu / time.cpu);
  }
  if (!std::isfinite(problem.out[0])) state.SkipWithError("result is not finite");
  const double token_heads = static_cast<double>(problem.args.v[0] * kHeads);
  state.counters["ratio"] = median(ratios);
  state.counters["cpu_ratio"] = median(cpu_ratios);
  state.counters["floor_us"] = median(floors) * 1e6;
  state.counters["cpu_us_per_token_head"] = median(cpu_times) * 1e6 / token_heads;
  state.counters["threads"] = pool.size();
  state.SetLabel(cat("ratio ", median(ratios), " of ", bound, ", ", name_of(active_isa())));
}

// The flop that the chunk form needs of a token and head, triangles counted as such: three products with the state, the
// two halves of q k^T and k k^T, their products with U.
double chunk_flop(bool delta) {
  constexpr double kL = kLinearAttnChunk;
  return (delta ? 6 : 4) * kD * kD + (delta ? 2 : 1) * kL * kD + (delta ? 2 : 1) * kL * kD;
}

void prefill(benchmark::State& state, Decay decay, bool delta, double gate) {
  const int64_t T = state.range(0);
  Problem problem(1, T, decay, delta, gate, 1);
  const double flop = chunk_flop(delta) * static_cast<double>(T * kHeads);
  against_floor(state, problem, "multiply-add peak", [&](ThreadPool& pool) { return multiply_add_floor(pool, flop); });
}
// Gates: mean log-decay a token. A trained model has channels of every kind.
BENCHMARK_CAPTURE(prefill, kda_weak, Decay::per_channel, true, -0.01)->Arg(4096)->UseManualTime();
BENCHMARK_CAPTURE(prefill, kda, Decay::per_channel, true, -0.5)->Arg(256)->Arg(4096)->Arg(65536)->UseManualTime();
BENCHMARK_CAPTURE(prefill, kda_strong, Decay::per_channel, true, -5)->Arg(4096)->UseManualTime();
BENCHMARK_CAPTURE(prefill, gdn, Decay::per_token, true, -0.5)->Arg(4096)->UseManualTime();
BENCHMARK_CAPTURE(prefill, gla, Decay::per_channel, false, -0.5)->Arg(4096)->UseManualTime();

// One token for each of range(0) sequences. The states of as many layers as fit 128 MiB take turns, as they do in a
// model; the floor reads and writes the same memory with one multiplication an element.
void decode(benchmark::State& state) {
  const int64_t B = state.range(0), bytes = B * Problem::state_bytes();
  Problem problem(B, 1, Decay::per_channel, true, -0.5, std::max<int64_t>(1, (128 << 20) / bytes));
  size_t turn = 0;
  against_floor(state, problem, "states read and written once", [&](ThreadPool& pool) {
    turn += problem.states.size() / 2 + 1;  // never the set that the op touches next or touched last
    float* s = problem.states[turn % problem.states.size()][0];
    return seconds_of([&] {
      pool.parallel_for(bytes / 4, 1 << 14, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) s[i] *= 0.999f;
      });
    });
  });
}
BENCHMARK(decode)->Arg(1)->Arg(16)->UseManualTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace linnet::ops
#endif
