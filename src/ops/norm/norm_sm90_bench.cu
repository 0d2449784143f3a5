// Times the Hopper normalisations against their floor: compulsory bytes over the bandwidth of a copy. Calls are replayed
// back to back in a graph, each over another part of a pool that is larger than the L2 twice.
#include "ops/linear_attn/linear_attn_sm90_timing.cuh"
#include "ops/norm/norm_sm90.h"

namespace linnet::ops::sm90_check {
namespace {

constexpr size_t kPool = 256u << 20;  // elements of x, of gate, of y

struct Pools {
  DeviceArray<bf16> x{kPool}, gate{kPool}, y{kPool};
  DeviceArray<float> weight{std::vector<float>(kNormSm90MaxWidth, 1.f)};
  Pools() {
    std::mt19937 rng(1);
    std::vector<bf16> some(1 << 20);
    for (auto& e : some) e = __float2bfloat16(static_cast<float>(rng() % 2000) / 1000.f - 1.f);
    for (size_t at = 0; at < kPool; at += some.size()) {
      for (bf16* to : {x.get(), gate.get()})
        LINNET_CUDA_OK(cudaMemcpy(to + at, some.data(), some.size() * sizeof(bf16), cudaMemcpyHostToDevice));
    }
  }
};

void bench_rms(const Pools& p, double bandwidth, int64_t n, int width) {
  const size_t one = n * width, calls = std::min<size_t>(kPool / one, 512);
  const Times t = time_in_graph_us(static_cast<int>(calls), [&](int call) {
    const size_t at = call * one;
    const RmsNormSm90 a = {p.x.get() + at, p.weight.get(), p.y.get() + at, width, width, n, width, 1e-5f};
    LINNET_CUDA_OK(rms_norm_sm90(a, stream()));
  });
  report("rms_norm", std::to_string(n) + " x " + std::to_string(width), 4.0 * one / bandwidth, t, "");
}

void bench_gated(const Pools& p, double bandwidth, int64_t n, int heads) {
  const int64_t width = heads * kGatedNormSm90Dim;
  const size_t one = n * width, calls = std::min<size_t>(kPool / one, 512);
  const Times t = time_in_graph_us(static_cast<int>(calls), [&](int call) {
    const size_t at = call * one;
    const GatedNormSm90 a = {
        p.x.get() + at, p.gate.get() + at, p.weight.get(), p.y.get() + at, width, width, width, n, heads, 1e-5f, 0};
    LINNET_CUDA_OK(gated_norm_sm90(a, stream()));
  });
  char shape[48];
  std::snprintf(shape, sizeof shape, "N%lld H%d", static_cast<long long>(n), heads);
  report("gated_norm", shape, 6.0 * one / bandwidth, t, "");
}

}  // namespace

void bench_norm(int argc, char** argv) {
  const double bandwidth = begin_bench(argc, argv);
  const Pools p;
  for (const int64_t n : {32, 1024, 8192, 65536}) bench_rms(p, bandwidth, n, 2304);
  bench_rms(p, bandwidth, 8192, 512);
  bench_rms(p, bandwidth, 8192, 7168);
  for (const int64_t n : {32, 1024, 8192, 65536}) bench_gated(p, bandwidth, n, 32);
}

}  // namespace linnet::ops::sm90_check
