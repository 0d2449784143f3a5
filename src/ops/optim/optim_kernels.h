// Inside of the op: passes over spans of numbers.
#pragma once

#include "ops/optim/optim.h"

namespace linnet::ops::optim {

struct AdamWFactors {  // of every element
  float grad_scale, beta1, one_minus_beta1, beta2, one_minus_beta2, m_correction, v_correction, eps, lr, decay;
};
// decay = lr * weight_decay; corrections = 1 / (1 - beta^step)
struct AdamWSpan {
  float *w, *m, *v;
  const float* grad;
  int64_t n;
};
void adamw_span(const AdamWSpan& span, const AdamWFactors& factors) noexcept;

double sum_of_squares_span(const float* x, int64_t n) noexcept;

// m = momentum m + g, u = nesterov ? g + momentum m : m, with g = scale grad.
struct MomentumSpan {
  float* m;
  const float* grad;
  float* u;
  int64_t n;
  float momentum, scale;
  bool nesterov;
};
void momentum_span(const MomentumSpan& span) noexcept;

void scale_span(float* x, int64_t n, float factor) noexcept;
void narrow_span(const float* x, int64_t n, bf16* to) noexcept;                           // nearest, ties to even
void combine_span(const float* x, float fx, float* y, float fy, int64_t n) noexcept;      // y = fx x + fy y
void update_span(float* w, const float* o, int64_t n, float rate, float decay) noexcept;  // w -= rate o + decay w

// muon.cpp. The products are gemm_variant(needs)'s.
void run_muon(const MuonArgs& args, const Exec& exec, Isa needs) noexcept;
size_t muon_workspace_bytes(const MuonArgs& args, int n_threads, Isa needs);

}  // namespace linnet::ops::optim
