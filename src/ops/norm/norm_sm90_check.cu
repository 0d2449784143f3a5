// Checks the Hopper normalisations against their definition in double, and in bits; `bench` then times them (norm_sm90_bench.cu).
#include "ops/linear_attn/linear_attn_sm90_verdict.cuh"
#include "ops/norm/norm_sm90.h"

namespace linnet::ops::sm90_check {

void bench_norm(int argc, char** argv);

namespace {

// Half a unit in the last place of bf16, at most 2^-8 of the value, and 2^-18 for the f32 sums, the reciprocal root, exponential and division before.
constexpr double kTolerance = 1.0 / 256 + 1.0 / (1 << 18);

std::vector<bf16> random_bf16(size_t n, unsigned seed, float sigma) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<bf16> x(n);
  for (auto& e : x) e = __float2bfloat16(sigma * normal(rng));
  return x;
}
std::vector<float> random_f32(size_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (auto& e : x) e = 1 + 0.3f * normal(rng);
  return x;
}

// Rows of `width` at `stride` in y against ref; what lies between rows must still be the poison.
bool rows_agree(const std::vector<bf16>& y, const std::vector<double>& ref, int64_t n, int width, int64_t stride) {
  bool ok = true;
  for (int64_t r = 0; r < n; r++) {
    for (int64_t c = 0; c < stride; c++) {
      const float v = __bfloat162float(y[r * stride + c]);
      if (c >= width) ok = ok && std::isnan(v);
      else ok = ok && std::abs(v - ref[r * width + c]) <= kTolerance * std::abs(ref[r * width + c]) + 1e-30;
    }
  }
  return ok;
}

void check_rms(int64_t n, int width, int64_t x_stride, int64_t y_stride, float sigma) {
  const std::vector<bf16> x = random_bf16(n * x_stride, 1, sigma);
  const std::vector<float> w = random_f32(width, 2);
  constexpr double kEps = 1e-5f;
  std::vector<double> ref(n * width);
  for (int64_t r = 0; r < n; r++) {
    double sum = 0;
    for (int c = 0; c < width; c++) sum += std::pow(__bfloat162float(x[r * x_stride + c]), 2);
    for (int c = 0; c < width; c++)
      ref[r * width + c] = __bfloat162float(x[r * x_stride + c]) / std::sqrt(sum / width + kEps) * w[c];
  }
  DeviceArray<bf16> dx(x), dy(n * y_stride);
  DeviceArray<float> dw(w);
  dy.poison();
  RmsNormSm90 a = {.x = dx.get(),
                   .weight = dw.get(),
                   .y = dy.get(),
                   .x_stride = x_stride,
                   .y_stride = y_stride,
                   .n_rows = n,
                   .width = width,
                   .eps = 1e-5f};
  LINNET_CUDA_OK(rms_norm_sm90(a, stream()));
  LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  const std::vector<bf16> y = dy.host();
  const std::string what = "rms " + std::to_string(n) + " x " + std::to_string(width) + " strides " +
                           std::to_string(x_stride) + ", " + std::to_string(y_stride);
  verdict(rows_agree(y, ref, n, width, y_stride), what);
  a.x = dx.get() + (n - 1) * x_stride;  // the last row alone, in place
  a.y = dx.get() + (n - 1) * x_stride;
  a.y_stride = x_stride;
  a.n_rows = 1;
  LINNET_CUDA_OK(rms_norm_sm90(a, stream()));
  LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  const std::vector<bf16> after = dx.host();
  verdict(std::memcmp(&after[(n - 1) * x_stride], &y[(n - 1) * y_stride], width * sizeof(bf16)) == 0 &&
              std::memcmp(after.data(), x.data(), (n - 1) * x_stride * sizeof(bf16)) == 0,
          what + ": a row alone and in place has the same bits");
}

void check_gated(int64_t n, int heads, int64_t extra, bool silu) {
  constexpr int D = kGatedNormSm90Dim;
  const int width = heads * D;
  const int64_t stride = width + extra;
  const std::vector<bf16> x = random_bf16(n * stride, 3, 1), gate = random_bf16(n * stride, 4, 4);
  const std::vector<float> w = random_f32(D, 5);
  std::vector<double> ref(n * width);
  for (int64_t i = 0; i < n * heads; i++) {
    const size_t at = (i / heads) * stride + (i % heads) * D;
    double sum = 0;
    for (int d = 0; d < D; d++) sum += std::pow(__bfloat162float(x[at + d]), 2);
    for (int d = 0; d < D; d++) {
      const double g = __bfloat162float(gate[at + d]);
      ref[i * D + d] = __bfloat162float(x[at + d]) / std::sqrt(sum / D + static_cast<double>(1e-5f)) * w[d] *
                       (silu ? g : 1) / (1 + std::exp(-g));
    }
  }
  DeviceArray<bf16> dx(x), dg(gate), dy(n * stride);
  DeviceArray<float> dw(w);
  dy.poison();
  const GatedNormSm90 a = {.x = dx.get(),
                           .gate = dg.get(),
                           .weight = dw.get(),
                           .y = dy.get(),
                           .x_stride = stride,
                           .gate_stride = stride,
                           .y_stride = stride,
                           .n_tokens = n,
                           .n_heads = heads,
                           .eps = 1e-5f,
                           .silu = silu};
  LINNET_CUDA_OK(gated_norm_sm90(a, stream()));
  LINNET_CUDA_OK(cudaStreamSynchronize(stream()));
  verdict(rows_agree(dy.host(), ref, n, width, stride), "gated " + std::to_string(n) + " tokens, " +
                                                            std::to_string(heads) + " heads, stride + " +
                                                            std::to_string(extra) + (silu ? ", silu" : ", sigmoid"));
}

void check_refusals() {
  RmsNormSm90 a = {.x_stride = 16, .y_stride = 16, .n_rows = 1, .width = 12, .eps = 1e-5f};
  bool ok = rms_norm_sm90(a, stream()) == cudaErrorInvalidValue;
  a.width = kNormSm90MaxWidth + 8;
  ok = ok && rms_norm_sm90(a, stream()) == cudaErrorInvalidValue;
  a.width = 16;
  a.n_rows = 0;
  verdict(ok && rms_norm_sm90(a, stream()) == cudaSuccess, "rms: widths that it does not take, and no rows");
}

}  // namespace

void check_all() {
  for (const int width : {8, 128, 512, 1024, 1032, 2304, 3072, 3080, 4096, 8192, 8200, 24576})
    check_rms(width < 4000 ? 37 : 3, width, width, width, 1);
  check_rms(5, 2304, 2304 + 64, 2304 + 8, 1e-3f);
  check_rms(1, 4096, 5000, 4104, 1e3f);
  for (const int heads : {1, 3, 32}) {
    for (const int64_t n : {1, 7, 65}) check_gated(n, heads, heads == 3 ? 24 : 0, n == 7);
  }
  check_refusals();
}

}  // namespace linnet::ops::sm90_check

int main(int argc, char** argv) {
  using namespace linnet::ops::sm90_check;
  return run_checks(
      argc, argv, [](const std::string&) { check_all(); }, bench_norm);
}
