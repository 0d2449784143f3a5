#include "ops/gemm/gemm_rates.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include "core/arena.h"
#include "core/rng.h"
#include "ops/gemm/gemm.h"

namespace linnet::ops {
namespace {

template <class F>
double best_seconds(int runs, const F& f) {
  double best = 1e30;
  for (int run = 0; run < runs; ++run) {
    const auto start = std::chrono::steady_clock::now();
    f();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

constexpr int64_t kStreams = 4;
constexpr int64_t kPieceWords = (4 << 20) / 8;  // 4 MiB a task, 1 MiB a stream
constexpr int64_t kWordsAhead = 1024 / 8;       // prefetched in each stream: worth 5 %

// The sum keeps the loads; independent sums a stream keep them in flight.
uint64_t sum_piece(const uint64_t* words) {
  constexpr int64_t kWords = kPieceWords / kStreams;
  uint64_t sum[kStreams][8] = {};
  for (int64_t i = 0; i < kWords; i += 8)
    for (int64_t s = 0; s < kStreams; ++s) {
      const uint64_t* at = words + s * kWords + i;
      __builtin_prefetch(at + kWordsAhead);
      for (int64_t j = 0; j < 8; ++j) sum[s][j] += at[j];
    }
  return std::accumulate(&sum[0][0], &sum[0][0] + kStreams * 8, uint64_t{0});
}

// Values in [-1, 1): an untouched page of a Buffer is the one zero page of the system, faster or slower than real
// memory.
void fill(const Tensor& t) {
  const Rng rng(1);
  for (int64_t i = 0; i < t.elements(); ++i) {
    const float value = static_cast<float>(2 * rng.uniform(static_cast<uint64_t>(i)) - 1);
    switch (t.dtype) {
      case DType::bf16: t.as<bf16>()[i] = to_bf16(value); break;
      case DType::f16: t.as<f16>()[i] = to_f16(value); break;
      default: t.as<float>()[i] = value;
    }
  }
}

}  // namespace

double measure_read_bandwidth(ThreadPool& pool) {
  // Three times the last-level cache, so that at most a third of a pass is served by it; 256 MiB to 1 GiB.
  const int64_t cache_pieces = sysconf(_SC_LEVEL3_CACHE_SIZE) / (kPieceWords * 8);
  const int64_t n_pieces = std::clamp<int64_t>(3 * cache_pieces, 64, 256);
  constexpr int kRuns = 7;
  const Buffer buffer(static_cast<size_t>(n_pieces * kPieceWords * 8));
  uint64_t* words = reinterpret_cast<uint64_t*>(buffer.data());
  pool.parallel_for(n_pieces, 1, [&](int64_t begin, int64_t end, int) {  // an untouched page is no memory yet
    std::fill(words + begin * kPieceWords, words + end * kPieceWords, static_cast<uint64_t>(begin));
  });
  std::vector<uint64_t> sums(static_cast<size_t>(n_pieces));
  volatile uint64_t sink = 0;
  const double seconds = best_seconds(kRuns, [&] {
    pool.parallel_for(n_pieces, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) sums[static_cast<size_t>(i)] = sum_piece(words + i * kPieceWords);
    });
    sink = sink + std::accumulate(sums.begin(), sums.end(), uint64_t{0});
  });
  return static_cast<double>(buffer.size()) / seconds;
}

double measure_gemm_rate(ThreadPool& pool, DType weights) {
  constexpr int64_t kExtent = 2048, kRuns = 7;
  const Buffer x(kExtent * kExtent * 4), y(kExtent * kExtent * 4);
  const Buffer w(static_cast<size_t>(kExtent * kExtent * size_of(weights)));
  fill(Tensor(x.data(), DType::f32, {kExtent, kExtent}));
  fill(Tensor(w.data(), weights, {kExtent, kExtent}));
  const GemmProblem problem{.x = ConstTensor(x.data(), DType::f32, {kExtent, kExtent}),
                            .w = ConstTensor(w.data(), weights, {kExtent, kExtent}),
                            .y = Tensor(y.data(), DType::f32, {kExtent, kExtent})};
  const GemmArgs args{{&problem, 1}};
  const Plan<GemmArgs> plan = plan_gemm(args);
  Workspace workspace(plan.workspace_bytes(args, pool.size()));
  const double seconds = best_seconds(kRuns, [&] { plan.run(args, Exec{pool, workspace}); });
  return 2.0 * kExtent * kExtent * kExtent / seconds;
}

}  // namespace linnet::ops
