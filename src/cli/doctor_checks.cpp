#include "cli/doctor_checks.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/device_memory.h"
#include "core/rng.h"
#include "core/text.h"
#include "ops/linear_attn/linear_attn.h"
#include "ops/linear_attn/linear_attn_sm90.h"

namespace linnet::cli {
namespace {

constexpr int64_t kTokens = 100, kHeads = 2, kWidth = 64;  // one chunk, and 36 tokens after it
constexpr double kMaxError = 1e-4;                         // sums of f32 over 64 channels and tokens err by some 1e-6

std::vector<float> random_numbers(Rng& rng, int64_t n, double scale) {
  std::vector<float> numbers(static_cast<size_t>(n));
  for (float& x : numbers) x = static_cast<float>(scale * rng.normal());
  return numbers;
}

struct KdaCase {
  Rng rng{1};
  std::vector<float> q = random_numbers(rng, kTokens* kHeads* kWidth, 0.125);  // of norm 1
  std::vector<float> k = random_numbers(rng, kTokens* kHeads* kWidth, 0.125);
  std::vector<float> v = random_numbers(rng, kTokens* kHeads* kWidth, 1);
  std::vector<float> log_decay = random_numbers(rng, kTokens* kHeads* kWidth, 0.1);
  std::vector<float> beta = std::vector<float>(kTokens * kHeads, 0.5f);
  std::vector<int32_t> seq_start = {0, kTokens};
  KdaCase() {
    for (float& x : log_decay) x = -std::abs(x);
  }

  template <class Run>
  std::vector<float> out(Run run) {
    std::vector<float> result(v.size()), state(kHeads * kWidth * kWidth);
    float* states[] = {state.data()};
    const std::initializer_list<int64_t> shape = {kTokens, kHeads, kWidth};
    run(ops::LinearAttnArgs{.q = Tensor::of(q.data(), shape),
                            .k = Tensor::of(k.data(), shape),
                            .v = Tensor::of(v.data(), shape),
                            .log_decay = Tensor::of(log_decay.data(), shape),
                            .beta = Tensor::of(beta.data(), {kTokens, kHeads}),
                            .seq_start = Tensor::of(seq_start.data(), {2}),
                            .state = states,
                            .out = Tensor::of(result.data(), shape),
                            .scale = 0.125f});
    return result;
  }
};

// One padded sequence: the kernel is loaded and started, reads its slot and ends.
void launch_kernel(const Device& device, Stream& stream, const DeviceBuffer& slot) {
  const DeviceOperator<ops::KdaDecodeSm90> decode(device, "kda_decode_sm90");
  ops::KdaDecodeSm90 args = {};
  args.slot = reinterpret_cast<const int32_t*>(slot.data());
  args.n_sequences = args.n_heads = 1;
  stream.run(decode, args);
}

}  // namespace

CpuCheck check_cpu(ThreadPool& pool) {
  CpuCheck check;
  KdaCase kda;
  const std::vector<float> expected = kda.out(ops::linear_attn_ref);
  const std::vector<float> got = kda.out([&](const ops::LinearAttnArgs& args) {
    const Plan<ops::LinearAttnArgs> plan = ops::plan_linear_attn(args);
    check.variant = plan.variant();
    Workspace workspace(plan.workspace_bytes(args, pool.size()));
    plan.run(args, {pool, workspace});
  });
  double largest = 0, difference = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
    const double d = std::abs(static_cast<double>(got[i]) - expected[i]);
    difference = d <= difference ? difference : d;  // a NaN stays
  }
  check.error = difference / largest;
  if (!(check.error <= kMaxError))
    check.failure = cat("linear_attn (", check.variant, "): expected an error of at most ", kMaxError,
                        " against the definition, got ", check.error);
  return check;
}

std::string check_device(const Device& device) try {
  std::vector<int32_t> sent(1024, -1), received(sent.size());
  const size_t bytes = sent.size() * sizeof(int32_t);
  const DeviceBuffer memory(device, bytes);
  Stream stream(device);  // after the memory: its end waits for work that uses it
  stream.copy(memory.data(), sent.data(), bytes);
  stream.copy(received.data(), memory.data(), bytes);
  launch_kernel(device, stream, memory);
  stream.synchronize();
  return sent == received ? "" : "memory: what was copied there and back is not the same";
} catch (const std::exception& e) { return e.what(); }

}  // namespace linnet::cli
