// The recurrent core's gradient against its forward on the same inputs: the label starts with ratio = median of backward time
// / forward time, the two run in turn; cpu_ratio is the same in processor time, which says more where other programs run. By
// flop the chunk form needs 2.7 forwards (README.md). Layout as the KDA layer has it: q, k and v are columns of one matrix;
// training: no state before, no gradient from after.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/rng.h"
#include "ops/bench_support.h"
#include "ops/linear_attn/linear_attn_bwd.h"

namespace linnet::ops {
namespace {

constexpr int64_t kHeads = 8, kTokens = 1024;

// About kTokens tokens, in sequences of T.
struct Problem {
  std::vector<float> qkv, log_decay, beta, out, dout, dqkv, dlog_decay, dbeta, states;
  std::vector<int32_t> seq_start;
  std::vector<float*> state;
  LinearAttnArgs forward;
  LinearAttnBwdArgs backward;

  Problem(int64_t T, int64_t D, Decay decay, bool delta) {
    const int64_t B = kTokens / T, N = B * T, width = kHeads * D, gates = decay == Decay::per_channel ? width : kHeads;
    const Rng rng(1);
    uint64_t at = 0;
    const float unit = 1 / std::sqrt(static_cast<float>(D));  // keys of about unit length
    const auto fill = [&](std::vector<float>& v, int64_t n, float low, float high) {
      v.resize(static_cast<size_t>(n));
      for (float& x : v) x = low + (high - low) * static_cast<float>(rng.uniform(at++));
    };
    fill(qkv, N * 3 * width, -1.7f * unit, 1.7f * unit), fill(log_decay, N * gates, -1, 0),
        fill(beta, N * kHeads, 0, 1);
    fill(dout, N * width, -1, 1), fill(out, N * width, 0, 0), fill(states, B * width * D, 0, 0);
    fill(dqkv, N * 3 * width, 0, 0), fill(dlog_decay, N * gates, 0, 0), fill(dbeta, N * kHeads, 0, 0);
    for (int64_t b = 0; b <= B; ++b) seq_start.push_back(static_cast<int32_t>(b * T));
    for (int64_t b = 0; b < B; ++b) state.push_back(states.data() + b * width * D);
    const auto columns = [&](std::vector<float>& from, int64_t first) {
      Tensor t = Tensor::of(from.data() + first * width, {N, kHeads, D});
      t.row_stride = 3 * width;
      return t;
    };
    const auto gate = [&](std::vector<float>& from) {
      return decay == Decay::per_channel ? Tensor::of(from.data(), {N, kHeads, D})
                                         : Tensor::of(from.data(), {N, kHeads});
    };
    forward = {.q = columns(qkv, 0), .k = columns(qkv, 1), .v = columns(qkv, 2), .log_decay = gate(log_decay)};
    forward.beta = ConstTensor::of(beta.data(), {N, kHeads}),
    forward.seq_start = ConstTensor::of(seq_start.data(), {B + 1});
    forward.state = state.data(), forward.out = Tensor::of(out.data(), {N, kHeads, D});
    forward.scale = unit, forward.decay = decay, forward.delta = delta;
    backward = {.q = forward.q, .k = forward.k, .v = forward.v, .log_decay = forward.log_decay, .beta = forward.beta};
    backward.seq_start = forward.seq_start, backward.state = nullptr, backward.dstate = nullptr;
    backward.dout = ConstTensor::of(dout.data(), {N, kHeads, D}), backward.dq = columns(dqkv, 0);
    backward.dk = columns(dqkv, 1), backward.dv = columns(dqkv, 2), backward.dlog_decay = gate(dlog_decay);
    backward.dbeta = Tensor::of(dbeta.data(), {N, kHeads});
    backward.scale = unit, backward.decay = decay, backward.delta = delta;
  }
};

void backward(benchmark::State& state, Decay decay, bool delta) {
  Problem problem(state.range(0), state.range(1), decay, delta);
  ThreadPool pool(static_cast<int>(state.range(2)));
  const auto forward = plan_linear_attn(problem.forward);
  const auto backward = plan_linear_attn_bwd(problem.backward);
  Workspace workspace(std::max(forward.workspace_bytes(problem.forward, pool.size()),
                               backward.workspace_bytes(problem.backward, pool.size())));
  const Exec exec{pool, workspace};
  backward.run(problem.backward, exec);
  std::vector<double> ratios, cpu_ratios, cpu_times;
  for (auto _ : state) {
    std::fill(problem.states.begin(), problem.states.end(), 0.0f);
    const Seconds least = seconds_of([&] { forward.run(problem.forward, exec); });
    const Seconds time = seconds_of([&] { backward.run(problem.backward, exec); });
    state.SetIterationTime(time.wall);
    ratios.push_back(time.wall / least.wall), cpu_ratios.push_back(time.cpu / least.cpu), cpu_times.push_back(time.cpu);
  }
  if (!std::isfinite(problem.dqkv[0])) state.SkipWithError("result is not finite");
  state.counters["ratio"] = median(ratios);
  state.counters["cpu_ratio"] = median(cpu_ratios);
  state.counters["cpu_us_per_token_head"] =
      median(cpu_times) * 1e6 / static_cast<double>(problem.forward.v[0] * kHeads);
  state.SetLabel(cat("ratio ", median(ratios), " to the forward, ", name_of(active_isa())));
}

void cases(benchmark::internal::Benchmark* b) {
  b->ArgNames({"T", "D", "threads"})->ArgsProduct({{1024, 64, 50}, {128, 64}, {1, 2}})->UseManualTime();
  b->Unit(benchmark::kMicrosecond);
}
BENCHMARK_CAPTURE(backward, kda, Decay::per_channel, true)->Apply(cases);
BENCHMARK_CAPTURE(backward, gdn, Decay::per_token, true)->Apply(cases);
BENCHMARK_CAPTURE(backward, gla, Decay::per_channel, false)->Apply(cases);

}  // namespace
}  // namespace linnet::ops
