// Times the Hopper short convolution against its floor: compulsory bytes over the bandwidth of a copy. Calls are
// replayed back to back in a graph, each over another part of a pool that is larger than the L2 twice.
#include "ops/linear_attn/linear_attn_sm90_timing.cuh"
#include "ops/short_conv/short_conv_sm90.h"

namespace linnet::ops::sm90_check {
namespace {

constexpr size_t kPool = 832u << 20;  // elements of x, and of y

void bench_one(const DeviceArray<bf16>& x, const DeviceArray<bf16>& y, double bandwidth, int B, int64_t T,
               int channels) {
  std::vector<int32_t> start(B + 1), slots(B);
  for (int b = 0; b <= B; b++) start[b] = static_cast<int32_t>(b * T);
  for (int b = 0; b < B; b++) slots[b] = b;
  DeviceArray<int32_t> d_start(start), d_slots(slots);
  DeviceArray<bf16> state(static_cast<size_t>(B) * channels * 3);
  DeviceArray<float> weight(std::vector<float>(static_cast<size_t>(channels) * 4, 0.25f));
  LINNET_CUDA_OK(cudaMemset(state.get(), 0, state.size() * sizeof(bf16)));
  const size_t one = B * T * channels, calls = std::clamp<size_t>(kPool / one, 1, 512);
  const Times t = time_in_graph_us(static_cast<int>(calls), [&](int call) {
    const size_t at = call * one;
    const ShortConvSm90 a = {.x = x.get() + at,
                             .weight = weight.get(),
                             .y = y.get() + at,
                             .seq_start = d_start.get(),
                             .state = state.get(),
                             .state_in = d_slots.get(),
                             .state_out = d_slots.get(),
                             .x_stride = channels,
                             .y_stride = channels,
                             .n_tokens = B * T,
                             .n_sequences = B,
                             .n_channels = channels,
                             .silu = 1};
    LINNET_CUDA_OK(short_conv_sm90(a, stream()));
  });
  const double bytes = 4.0 * one + 2.0 * state.size() * sizeof(bf16) + 16.0 * channels;
  char shape[48];
  std::snprintf(shape, sizeof shape, "B%d T%lld C%d", B, static_cast<long long>(T), channels);
  report("short_conv", shape, bytes / bandwidth, t, "");
}

}  // namespace

void bench_short_conv(int argc, char** argv) {
  const double bandwidth = begin_bench(argc, argv);
  DeviceArray<bf16> x(kPool), y(kPool);
  LINNET_CUDA_OK(cudaMemset(x.get(), 0x3c, kPool * sizeof(bf16)));
  constexpr int kChannels = 3 * 32 * 128;  // q, k, v of 32 heads
  bench_one(x, y, bandwidth, 1, 8192, kChannels);
  bench_one(x, y, bandwidth, 1, 65536, kChannels);
  bench_one(x, y, bandwidth, 8, 1024, kChannels);
  bench_one(x, y, bandwidth, 1, 1024, kChannels);
  bench_one(x, y, bandwidth, 32, 1, kChannels);
}

}  // namespace linnet::ops::sm90_check
