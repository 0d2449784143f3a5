// Gradient of latent attention beside its forward: the label says how many forwards it takes, both measured in turn, by
// the clock and in processor time of all threads, which others on the machine do not stretch.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>

#include "core/rng.h"
#include "ops/mla/mla_bwd.h"

namespace linnet::ops {
namespace {

constexpr int64_t kHeads = 8, kDn = 64, kDr = 32, kDv = 64, kR = 256, kRow = kR + kDr, kWidth = kDn + kDv;

struct Times {
  double seconds, cpu_seconds;
};

template <class F>
Times times_of(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  const std::clock_t cpu = std::clock();
  f();
  return {std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
          static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC};
}

std::vector<float> random_floats(int64_t n, uint64_t seed, double stddev = 1) {
  std::vector<float> v(static_cast<size_t>(n));
  const Rng rng(seed);
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(stddev * (rng.uniform(i) * 2 - 1) * 1.7);
  return v;
}

std::vector<bf16> narrowed(const std::vector<float>& from) {
  std::vector<bf16> v(from.size());
  for (size_t i = 0; i < v.size(); ++i) v[i] = to_bf16(from[i]);
  return v;
}

struct Problem {
  int64_t N;
  std::vector<float> q, latent, out, dout, dq, dlatent, dkv_b, max_logit;
  std::vector<bf16> kv_b, kv_b_t;
  std::vector<int32_t> seq_start = {0};
  std::vector<std::vector<const std::byte*>> tables;
  std::vector<MlaSequence> seqs;

  Problem(int64_t sequences, int64_t tokens)
      : N(sequences * tokens),
        q(random_floats(N * kHeads * (kDn + kDr), 1)),
        latent(random_floats(N * kRow, 2)),
        out(static_cast<size_t>(N * kHeads * kDv)),
        dout(random_floats(N * kHeads * kDv, 3)),
        dq(q.size()),
        dlatent(latent.size()),
        dkv_b(static_cast<size_t>(kHeads * kWidth * kR)),
        max_logit(static_cast<size_t>(kHeads)),
        kv_b(narrowed(random_floats(kHeads * kWidth * kR, 4, 1 / std::sqrt(static_cast<double>(kR))))),
        kv_b_t(kv_b.size()) {
    for (int64_t i = 0; i < kHeads * kWidth * kR; ++i)
      kv_b_t[static_cast<size_t>(i % kR * kHeads * kWidth + i / kR)] = kv_b[static_cast<size_t>(i)];
    for (int64_t b = 0; b < sequences; ++b) {
      tables.emplace_back(static_cast<size_t>(mla_blocks(tokens)));
      mla_dense_blocks(latent.data() + b * tokens * kRow, tokens, kRow * 4, tables.back().data());
      seqs.push_back({tables.back().data(), 0});
      seq_start.push_back(static_cast<int32_t>((b + 1) * tokens));
    }
  }

  ConstTensor starts() const { return ConstTensor::of(seq_start.data(), {static_cast<int64_t>(seq_start.size())}); }
  static float scale() { return 1 / std::sqrt(static_cast<float>(kDn + kDr)); }

  MlaArgs forward() {
    return {.q = ConstTensor::of(q.data(), {N, kHeads, kDn + kDr}),
            .kv_b = ConstTensor::of(kv_b.data(), {kHeads * kWidth, kR}),
            .seq_start = starts(),
            .seqs = seqs.data(),
            .cache_dtype = DType::f32,
            .R = kR,
            .Dn = kDn,
            .Dr = kDr,
            .Dv = kDv,
            .out = Tensor::of(out.data(), {N, kHeads, kDv}),
            .scale = scale()};
  }

  MlaBwdArgs backward() {
    return {.q = ConstTensor::of(q.data(), {N, kHeads, kDn + kDr}),
            .kv_b = ConstTensor::of(kv_b.data(), {kHeads * kWidth, kR}),
            .kv_b_t = ConstTensor::of(kv_b_t.data(), {kR, kHeads * kWidth}),
            .latent = ConstTensor::of(latent.data(), {N, kRow}),
            .seq_start = starts(),
            .out = ConstTensor::of(out.data(), {N, kHeads, kDv}),
            .dout = ConstTensor::of(dout.data(), {N, kHeads, kDv}),
            .R = kR,
            .Dn = kDn,
            .Dr = kDr,
            .Dv = kDv,
            .dq = Tensor::of(dq.data(), {N, kHeads, kDn + kDr}),
            .dlatent = Tensor::of(dlatent.data(), {N, kRow}),
            .dkv_b = Tensor::of(dkv_b.data(), {kHeads * kWidth, kR}),
            .max_logit = Tensor::of(max_logit.data(), {kHeads}),
            .scale = scale()};
  }
};

void mla_bwd(benchmark::State& state) {  // range(0) sequences of range(1) tokens
  Problem problem(state.range(0), state.range(1));
  const MlaArgs forward = problem.forward();
  const MlaBwdArgs backward = problem.backward();
  ThreadPool pool;
  const Plan<MlaArgs> forward_plan = plan_mla(forward);
  const Plan<MlaBwdArgs> plan = plan_mla_bwd(backward);
  Workspace workspace(
      std::max(forward_plan.workspace_bytes(forward, pool.size()), plan.workspace_bytes(backward, pool.size())));
  const Exec exec{pool, workspace};
  forward_plan.run(forward, exec), plan.run(backward, exec);
  std::vector<double> ratios, cpu_ratios, forwards, cpu_backwards;
  for (auto _ : state) {
    const Times first = times_of([&] { forward_plan.run(forward, exec); });
    const Times second = times_of([&] { plan.run(backward, exec); });
    state.SetIterationTime(second.seconds);
    forwards.push_back(first.seconds), cpu_backwards.push_back(second.cpu_seconds);
    ratios.push_back(second.seconds / first.seconds), cpu_ratios.push_back(second.cpu_seconds / first.cpu_seconds);
  }
  if (!std::isfinite(problem.dq[0] + problem.dlatent[0] + problem.dkv_b[0])) state.SkipWithError("not finite");
  const auto median = [](std::vector<double>& v) {
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    return v[v.size() / 2];
  };
  // Products with each visible pair: five, of which three are Dn + Dr wide and two Dv; with each token: three with kv_b.
  const double T = static_cast<double>(state.range(1)), pairs = static_cast<double>(problem.N) * (T + 1) / 2;
  const double flop =
      2.0 * kHeads * (pairs * (3 * (kDn + kDr) + 2 * kDv) + 3.0 * static_cast<double>(problem.N * kWidth * kR));
  state.counters["forward_us"] = median(forwards) * 1e6;
  state.counters["gflops_cpu"] = flop * 1e-9 / median(cpu_backwards);  // of one thread
  state.counters["threads"] = pool.size();
  state.SetLabel(cat("backward / forward ", median(ratios), ", in processor time ", median(cpu_ratios), ", ",
                     name_of(active_isa())));
}
BENCHMARK(mla_bwd)->Args({1, 4096})->Args({4, 1024})->Args({80, 50})->Args({16, 256})->UseManualTime()->Unit(
    benchmark::kMicrosecond);

}  // namespace
}  // namespace linnet::ops
