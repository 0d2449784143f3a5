// Checks the Hopper short convolution against its definition in double, and in bits; `bench` then times it (short_conv_sm90_bench.cu).
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"
#include "ops/short_conv/short_conv_sm90.h"

namespace linnet::ops::sm90_check {

void bench_short_conv(int argc, char** argv);

namespace {

constexpr int kTaps = kShortConvSm90Taps, kWindow = kTaps - 1;

struct ConvCase {
  std::vector<int64_t> start;
  int channels;
  int64_t stride;
  std::vector<bf16> x, state;  // [N, stride], [slots, C, 3]
  std::vector<float> weight;
  std::vector<int32_t> in, out;
  int64_t N() const { return start.back(); }
  int B() const { return static_cast<int>(start.size()) - 1; }
};

// Sequence b reads slot B - 1 - b (every third: none) and writes the same one (every fourth: another, beyond; every fifth: none).
ConvCase make_conv(const std::vector<int64_t>& lengths, int channels, int64_t extra) {
  ConvCase c;
  c.start.push_back(0);
  for (const int64_t n : lengths) c.start.push_back(c.start.back() + n);
  c.channels = channels;
  c.stride = channels + extra;
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  const int B = c.B();
  c.x.resize(c.N() * c.stride);
  c.state.resize(static_cast<size_t>(2 * B) * channels * kWindow);
  c.weight.resize(static_cast<size_t>(channels) * kTaps);
  for (auto* v : {&c.x, &c.state}) {
    for (auto& e : *v) e = __float2bfloat16(normal(rng));
  }
  for (auto& w : c.weight) w = 0.5f * normal(rng);
  for (int b = 0; b < B; b++) {
    const int slot = B - 1 - b;
    c.in.push_back(b % 3 == 2 ? -1 : slot);
    c.out.push_back(b % 5 == 4 ? -1 : b % 4 == 3 ? B + b : slot);
  }
  return c;
}

// Input of sequence b at `at` tokens after its begin; before it, from the state as it was.
double input(const ConvCase& c, int b, int64_t at, int channel) {
  if (at >= 0) return __bfloat162float(c.x[(c.start[b] + at) * c.stride + channel]);
  if (c.in[b] < 0) return 0;
  return __bfloat162float(c.state[(static_cast<size_t>(c.in[b]) * c.channels + channel) * kWindow + kWindow + at]);
}

// Half a unit in the last place of bf16, at most 2^-8 of the value; the products' rounding, 2^-22 of the sum of their sizes; 2^-18 for exponential and division.
bool token_agrees(const ConvCase& c, int b, int64_t t, bool silu, const bf16* y) {
  bool ok = true;
  for (int ch = 0; ch < c.channels; ch++) {
    double s = 0, size = 0;
    for (int j = 0; j < kTaps; j++) {
      const double term = c.weight[ch * kTaps + j] * input(c, b, t - kWindow + j, ch);
      s += term;
      size += std::abs(term);
    }
    const double want = silu ? s / (1 + std::exp(-s)) : s, got = __bfloat162float(y[ch]);
    ok = ok && std::abs(got - want) <= (1.0 / 256 + 1.0 / (1 << 18)) * std::abs(want) + size / (1 << 22);
  }
  return ok;
}

struct DeviceConv {
  DeviceArray<bf16> x, y, state;
  DeviceArray<float> weight;
  DeviceArray<int64_t> start64;
  DeviceArray<int32_t> start32, in, out;
  ShortConvSm90 args;
  explicit DeviceConv(const ConvCase& c, bool silu, bool is_64)
      : x(c.x),
        y(c.x.size()),
        state(c.state),
        weight(c.weight),
        start64(c.start),
        start32(std::vector<int32_t>(c.start.begin(), c.start.end())),
        in(c.in),
        out(c.out) {
    y.poison();
    args = {.x = x.get(),
            .weight = weight.get(),
            .y = y.get(),
            .seq_start = is_64 ? static_cast<const void*>(start64.get()) : start32.get(),
            .state = state.get(),
            .state_in = in.get(),
            .state_out = out.get(),
            .x_stride = c.stride,
            .y_stride = c.stride,
            .n_tokens = c.N(),
            .n_sequences = c.B(),
            .n_channels = c.channels,
            .seq_start_is_64 = is_64,
            .silu = silu};
  }
  void run() {
    LINNET_CUDA_OK(short_conv_sm90(args, stream()));
    LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  }
};

bool states_agree(const ConvCase& c, const std::vector<bf16>& after) {
  std::vector<bf16> want = c.state;
  for (int b = 0; b < c.B(); b++) {
    if (c.out[b] < 0) continue;
    for (int ch = 0; ch < c.channels; ch++) {
      for (int i = 0; i < kWindow; i++)
        want[(static_cast<size_t>(c.out[b]) * c.channels + ch) * kWindow + i] =
            __float2bfloat16(static_cast<float>(input(c, b, c.start[b + 1] - c.start[b] - kWindow + i, ch)));
    }
  }
  return same_bits(after, want, want.size());
}

void check_case(const std::vector<int64_t>& lengths, int channels, int64_t extra, bool silu, bool is_64,
                const char* what) {
  const ConvCase c = make_conv(lengths, channels, extra);
  DeviceConv d(c, silu, is_64);
  d.run();
  const std::vector<bf16> y = d.y.host();
  bool ok = true;
  for (int b = 0; b < c.B(); b++) {
    for (int64_t n = c.start[b]; n < c.start[b + 1]; n++) {
      ok = ok && token_agrees(c, b, n - c.start[b], silu, &y[n * c.stride]);
      for (int64_t ch = channels; ch < c.stride; ch++) ok = ok && std::isnan(__bfloat162float(y[n * c.stride + ch]));
    }
  }
  verdict(ok, std::string("outputs: ") + what);
  verdict(states_agree(c, d.state.host()), std::string("states: ") + what);
}

// One sequence in two calls, cut anywhere, has the bits of one call.
void check_cuts() {
  const int64_t n = 70;
  ConvCase whole = make_conv({n}, 64, 0);
  DeviceConv one(whole, true, false);
  one.run();
  const std::vector<bf16> y = one.y.host(), state = one.state.host();
  bool ok = true;
  for (const int64_t cut : {1, 2, 3, 4, 5, 31, 64, 67, 69}) {
    DeviceConv two(whole, true, false);
    two.start32.copy_from({0, static_cast<int32_t>(cut)});
    two.args.n_tokens = cut;
    two.run();
    two.start32.copy_from({0, static_cast<int32_t>(n - cut)});
    two.args.n_tokens = n - cut;
    two.args.x = two.x.get() + cut * whole.stride;
    two.args.y = two.y.get() + cut * whole.stride;
    two.run();
    ok = ok && same_bits(two.y.host(), y, y.size()) && same_bits(two.state.host(), state, state.size());
  }
  verdict(ok, "cut into two calls: same outputs and states in bits");
}

}  // namespace

void check_all() {
  check_case({5, 0, 1, 2, 3, 4, 64, 63, 65, 0, 129, 1, 1, 1, 0}, 96, 0, true, false, "ragged, silu");
  check_case({0, 0, 200, 3, 0}, 1032, 24, false, true, "ragged, int64, more than one CTA of channels, strides");
  check_case({1, 1, 1, 1}, 3072, 0, true, false, "one token each");
  check_case({3000, 17}, 8, 0, true, true, "long, few channels");
  check_case({0}, 8, 0, true, false, "nothing");
  std::vector<int64_t> many(70000);
  for (size_t i = 0; i < many.size(); i++) many[i] = static_cast<int64_t>(i * 7 % 3);
  check_case(many, 16, 0, true, false, "more sequences than a grid has rows");
  check_cuts();
}

}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  return run_checks(
      argc, argv, [](const std::string&) { check_all(); }, bench_short_conv);
}
