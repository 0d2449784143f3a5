#include "cli/bench_core.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/rng.h"
#include "ops/linear_attn/linear_attn.h"
#include "ops/norm/norm.h"

namespace linnet::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Inputs of one pass like those of a fresh model: unit queries and keys, decays from nearly 1 down to e^-5 a token, strengths around
// one half.
class CoreInputs {
 public:
  CoreInputs(int64_t n, const model::KdaConfig& kda, const Exec& exec)
      : memory_(static_cast<size_t>(n * (5 * kda.heads * kda.head_dim + kda.heads)) * sizeof(float) + 8 * kAlignment),
        state_(static_cast<size_t>(kda.heads * kda.head_dim * kda.head_dim) * sizeof(float)),
        n_(n),
        kda_(kda) {
    const int64_t H = kda.heads, D = kda.head_dim;
    for (Tensor* t : {&q_, &k_, &v_, &decay_, &out_}) *t = memory_.tensor<float>({n, H, D});
    beta_ = memory_.tensor<float>({n, H});
    const Rng rng(1);
    for (int64_t i = 0; i < n * H * D; ++i) {
      const auto at = static_cast<uint64_t>(4 * i);
      q_.as<float>()[i] = static_cast<float>(rng.uniform(at) - 0.5);
      k_.as<float>()[i] = static_cast<float>(rng.uniform(at + 1) - 0.5);
      v_.as<float>()[i] = static_cast<float>(rng.uniform(at + 2) - 0.5);
      decay_.as<float>()[i] = static_cast<float>(-5 * std::pow(rng.uniform(at + 3), 4));
    }
    std::fill_n(beta_.as<float>(), n * H, 0.5f);
    for (const Tensor& t : {q_, k_}) apply("inputs", ops::plan_l2_norm, {.x = t, .y = t, .eps = 1e-6f}, exec);
  }

  void run(int64_t n_tokens, const Exec& exec) {
    const int32_t seq_start[] = {0, static_cast<int32_t>(n_tokens)};
    float* const state = reinterpret_cast<float*>(state_.data());
    apply("kda core alone", ops::plan_linear_attn,
          {.q = q_.rows(0, n_tokens),
           .k = k_.rows(0, n_tokens),
           .v = v_.rows(0, n_tokens),
           .log_decay = decay_.rows(0, n_tokens),
           .beta = beta_.rows(0, n_tokens),
           .seq_start = ConstTensor::of(seq_start, {2}),
           .state = &state,
           .out = out_.rows(0, n_tokens),
           .scale = 1 / std::sqrt(static_cast<float>(kda_.head_dim))},
          exec);
  }
  int64_t n() const { return n_; }

 private:
  Workspace memory_;
  Buffer state_;
  int64_t n_;
  model::KdaConfig kda_;
  Tensor q_, k_, v_, decay_, out_, beta_;
};

}  // namespace

std::vector<CorePoint> measure_kda_core(const model::ModelConfig& config, int64_t tokens_per_pass,
                                        const std::vector<int64_t>& tokens, ThreadPool& pool) {
  if (std::count(config.mixers.begin(), config.mixers.end(), "kda") == 0) return {};
  Workspace scratch(physical_memory_bytes());
  const Exec exec{pool, scratch};
  CoreInputs inputs(tokens_per_pass, config.kda, exec);
  inputs.run(inputs.n(), exec);  // warm

  std::vector<CorePoint> points;
  const auto start = Clock::now();
  int64_t done = 0;
  for (int64_t end : tokens) {
    while (done < end) {
      const int64_t n = std::min(inputs.n(), end - done);
      inputs.run(n, exec);
      done += n;
    }
    points.push_back({done, std::chrono::duration<double>(Clock::now() - start).count()});
  }
  return points;
}

}  // namespace linnet::cli
