// Times verify and commit of the Hopper KDA kernels against their floors, and against as many decode steps.
#include "ops/linear_attn/linear_attn_sm90_decode_pools.cuh"

namespace linnet::ops::sm90_check {
namespace {

// k tokens verified, and all of them committed, against as many steps; each part its own graph, as other layers come between them.
void bench_tokens(const Pools& p, double bandwidth, int k, double step_us) {
  const size_t bytes = kda_verify_sm90_pending_bytes(p.B, kHeads, k, p.D);
  DeviceArray<char> pending(bytes * p.n_calls);
  DeviceArray<int32_t> accepted(std::vector<int32_t>(p.B, k));
  const auto part = [&](int call) { return pending.get() + call * bytes; };
  const Times verify = p.time([&](int call) { return kda_verify_sm90(p.verify(call, k, part(call)), stream()); });
  const Times commit =
      p.time([&](int call) { return kda_commit_sm90(p.commit(call, k, part(call), accepted.get()), stream()); });
  const std::string shape = p.shape((" k" + std::to_string(k)).c_str());
  const double heads = p.B * kHeads / bandwidth;
  char more[96];
  std::snprintf(more, sizeof more, "verify + commit = %.2f of %d steps",
                (verify.median + commit.median) / (k * step_us), k);
  report("kda_verify", shape, heads * (p.state_bytes() + p.window_bytes() + k * (p.token_bytes() + p.pending_bytes())),
         verify, "");
  report("kda_commit", shape, heads * (2 * p.state_bytes() + 2 * p.window_bytes() + k * p.pending_bytes()), commit,
         more);
}

}  // namespace

void bench_verify(int argc, char** argv) {
  const double bandwidth = begin_bench(argc, argv);
  for (const int B : {1, 8, 32, 256}) {
    const Pools p(B);
    const double step_us = bench_step(p, bandwidth);
    for (const int k : {2, 4, 8}) bench_tokens(p, bandwidth, k, step_us);
  }
  for (const int B : {1, 32, 256}) {
    for (const auto& [D, type] :
         {std::pair{128, KdaStateType::bf16}, {64, KdaStateType::f32}, {64, KdaStateType::bf16}}) {
      const Pools p(B, D, type);
      bench_tokens(p, bandwidth, 4, bench_step(p, bandwidth));
    }
  }
}

}  // namespace linnet::ops::sm90_check
