// Times the plain recurrence on Hopper, both of its kernels, against its floor: compulsory bytes over the copy bandwidth measured in the same
// run. Other states each call, out of place as torch's functions have them; calls back to back in a replayed graph.
#include "ops/linear_attn/linear_attn_sm90_recurrent_case.cuh"
#include "ops/linear_attn/linear_attn_sm90_timing.cuh"

namespace linnet::ops::sm90 {
cudaError_t launch_recurrent_columns(const KdaRecurrentSm90& args, cudaStream_t stream);
}

namespace linnet::ops::sm90_check {
namespace {

constexpr int kHeads = 32;
constexpr size_t kPoolBytes = 2ull << 30;  // much more than the L2

struct Shape {
  int B, T, D;
  KdaType state_type;
  bool v_first;
};

void bench_shape(const Shape& x, double bandwidth, const DeviceArray<char>& from, const DeviceArray<char>& to) {
  RecurrentOptions o;
  o.lengths = {static_cast<int64_t>(x.B) * x.T};  // one sequence: the case makes one state, the others are below
  o.K = o.V = x.D;
  o.Hk = o.H = kHeads;
  o.state_type = x.state_type;
  o.v_first = x.v_first;
  o.no_starts = o.no_state = true;
  const RecurrentCase c(o, 3);
  const RecurrentOnDevice d(c);
  const size_t states = static_cast<size_t>(x.B) * kHeads * o.one() * bytes_of(x.state_type);
  const int n_calls = static_cast<int>(std::clamp<size_t>(kPoolBytes / states, 2, x.T > 8 ? 8 : 512));
  const double token_bytes = static_cast<double>(x.B) * x.T * kHeads * (5 * x.D * 2 + 2);
  const double floor_us = (2. * states + token_bytes) / bandwidth;
  char shape[64];
  std::snprintf(shape, sizeof shape, "B%d T%d H%d D%d %s%s", x.B, x.T, kHeads, x.D,
                x.state_type == KdaType::bf16 ? "bf16" : "f32", x.v_first ? " [V,K]" : "");
  for (const bool columns : {false, true}) {
    const Times t = time_in_graph_us(n_calls, [&](int call) {
      KdaRecurrentSm90 a = d.args;
      a.n_sequences = x.B, a.n_tokens = x.T;
      a.state_in = from.get() + call * states;
      a.state_out = to.get() + call * states;
      LINNET_CUDA_OK(columns ? sm90::launch_recurrent_columns(a, stream()) : kda_recurrent_sm90(a, stream()));
    });
    report(columns ? "kda_recurrent_columns" : "kda_recurrent", shape, floor_us, t,
           std::to_string(t.median / x.T) + " us a token");
  }
}

}  // namespace

void bench_recurrent(int argc, char** argv) {
  const double bandwidth = begin_bench(argc, argv);
  DeviceArray<char> from(kPoolBytes), to(kPoolBytes);
  std::vector<bf16> tile(1 << 20);  // pairs of bf16 are numbers in f32, too
  std::mt19937 rng(1);
  for (auto& x : tile) x = __float2bfloat16(static_cast<float>(rng() % 2000) / 1000.f - 1.f);
  for (size_t at = 0; at < kPoolBytes; at += tile.size() * 2)
    LINNET_CUDA_OK(cudaMemcpy(from.get() + at, tile.data(), tile.size() * 2, cudaMemcpyHostToDevice));
  std::vector<Shape> shapes;
  for (const int B : {1, 8, 32, 256})
    for (const bool v_first : {false, true}) shapes.push_back({B, 1, 128, KdaType::f32, v_first});
  for (const int B : {1, 32, 256}) {
    shapes.push_back({B, 1, 128, KdaType::bf16, false});
    shapes.push_back({B, 1, 64, KdaType::f32, false});
    shapes.push_back({B, 1, 64, KdaType::bf16, false});
  }
  for (const auto& [B, T] : {std::pair{1, 2}, {1, 8}, {1, 32}, {1, 128}, {32, 2}, {32, 8}, {32, 32}})
    for (const bool v_first : {false, true}) shapes.push_back({B, T, 128, KdaType::f32, v_first});
  for (const Shape& x : shapes) bench_shape(x, bandwidth, from, to);
}

}  // namespace linnet::ops::sm90_check
