// The decay gate's gradient with portable vectors, f32. Like the forward, a token is one row of H * D channels. Tokens come
// in blocks of a fixed size; each block leaves its own sums over tokens, and these are added in order, in double: so bits do
// not depend on the thread count.
#include "ops/decay_gate/decay_gate_simd_bwd.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/decay_gate/decay_gate_simd_bwd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/decay_gate/decay_gate_simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

// Of one channel and token: dz, and the term of da_log.
struct GateGradient {
  Vec dz, da_log;
};

HWY_INLINE Vec zero_unless(Vec nonzero, Vec value) { return hn::IfThenZeroElse(hn::Eq(nonzero, hn::Zero(F())), value); }

// rate < 0. dz = rate sigmoid(x) dg; dg times the gate itself, which may be -inf where dg is 0.
HWY_INLINE GateGradient softplus_gate_bwd(Vec z, Vec bias, Vec rate, Vec dg) {
  const F f;
  const Vec x = hn::Add(z, bias), e = exp_of_minus_abs_sum(z, bias, x), one = hn::Set(f, 1.0f);
  const Vec sigmoid = hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(f)), e, one), hn::Add(one, e));
  const Vec dz = hn::IfThenElse(hn::IsNaN(x), x, hn::Mul(hn::Mul(rate, sigmoid), dg));
  return {dz, zero_unless(dg, hn::Mul(dg, softplus_gate(z, bias, rate)))};
}

// rate > 0. With y = rate x: sigmoid'(y) = e / (1 + e)^2, e = exp(-|y|).
HWY_INLINE GateGradient lower_bound_gate_bwd(Vec z, Vec bias, Vec rate, Vec bound, Vec dg) {
  const F f;
  const Vec x = hn::Add(z, bias), y = hn::Mul(rate, x), e = exp_of_minus_abs(y), sum = hn::Add(hn::Set(f, 1.0f), e);
  const Vec slope = hn::Div(e, hn::Mul(sum, sum));
  const Vec product = hn::Mul(hn::Mul(hn::Mul(bound, slope), rate), dg);
  const Vec dz = hn::IfThenElse(hn::IsNaN(y), y, zero_unless(slope, product));
  return {dz, zero_unless(dz, hn::Mul(dz, x))};
}

// Tokens [begin, end): dz, and their sums per channel of dz and of da_log's terms.
template <class Gate>
HWY_INLINE void bwd_rows_of(const DecayGateBwdArgs& a, const float* rate, const float* bias, int64_t begin, int64_t end,
                            float* dz_sum, float* da_sum, Gate gate) {
  const F f;
  const int64_t width = a.z.row_elements(), lanes = static_cast<int64_t>(hn::Lanes(f));
  std::fill_n(dz_sum, width, 0.0f), std::fill_n(da_sum, width, 0.0f);
  for (int64_t n = begin; n < end; ++n) {
    const float *z = a.z.row<float>(n), *dg = a.dlog_decay.row<float>(n);
    float* dz = a.dz.row<float>(n);
    int64_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      const GateGradient g =
          gate(hn::LoadU(f, z + i), hn::LoadU(f, bias + i), hn::LoadU(f, rate + i), hn::LoadU(f, dg + i));
      hn::StoreU(g.dz, f, dz + i);
      hn::StoreU(hn::Add(hn::LoadU(f, dz_sum + i), g.dz), f, dz_sum + i);
      hn::StoreU(hn::Add(hn::LoadU(f, da_sum + i), g.da_log), f, da_sum + i);
    }
    if (const int64_t rest = width - i; rest > 0) {
      const GateGradient g = gate(load_f32_n(f, z + i, rest), load_f32_n(f, bias + i, rest),
                                  load_f32_n(f, rate + i, rest), load_f32_n(f, dg + i, rest));
      store_n(g.dz, f, dz + i, rest);
      store_n(hn::Add(load_f32_n(f, dz_sum + i, rest), g.dz), f, dz_sum + i, rest);
      store_n(hn::Add(load_f32_n(f, da_sum + i, rest), g.da_log), f, da_sum + i, rest);
    }
  }
}

void bwd_rows(const DecayGateBwdArgs& a, const float* rate, const float* bias, int64_t begin, int64_t end,
              float* dz_sum, float* da_sum) {
  const Vec bound = hn::Set(F(), a.lower_bound);
  if (a.kind == DecayGateKind::softplus)
    bwd_rows_of(a, rate, bias, begin, end, dz_sum, da_sum,
                [](Vec z, Vec b, Vec r, Vec dg) HWY_ATTR { return softplus_gate_bwd(z, b, r, dg); });
  else
    bwd_rows_of(a, rate, bias, begin, end, dz_sum, da_sum,
                [=](Vec z, Vec b, Vec r, Vec dg) HWY_ATTR { return lower_bound_gate_bwd(z, b, r, bound, dg); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(bwd_rows);

constexpr int64_t kBlockTokens = 64;  // sums of a block are 1/32 of its dz

int64_t block_count(int64_t n_tokens) { return (n_tokens + kBlockTokens - 1) / kBlockTokens; }

// The blocks' sums of head h, added to its gradients. sum: [D] scratch.
void add_block_sums(const DecayGateBwdArgs& a, const float* sums, int64_t h, double* sum) {
  const int64_t D = a.z[2], width = a.z.row_elements();
  std::fill_n(sum, D, 0.0);
  double da_log = 0;
  for (int64_t block = 0; block < block_count(a.z[0]); ++block) {
    const float* dz = sums + 2 * block * width + h * D;
    for (int64_t d = 0; d < D; ++d) sum[d] += dz[d], da_log += dz[width + d];
  }
  a.da_log.as<float>()[h] += static_cast<float>(da_log);
  for (int64_t d = 0; d < D && a.ddt_bias; ++d) a.ddt_bias.row<float>(h)[d] += static_cast<float>(sum[d]);
}

}  // namespace

size_t decay_gate_simd_bwd_workspace_bytes(const DecayGateBwdArgs& a, int) {
  const auto width = static_cast<size_t>(a.z.row_elements()), blocks = static_cast<size_t>(block_count(a.z[0]));
  return 2 * aligned_size(width * sizeof(float)) + aligned_size(2 * blocks * width * sizeof(float)) +
         aligned_size(width * sizeof(double));
}

void decay_gate_simd_bwd(const DecayGateBwdArgs& a, const Exec& exec) noexcept {
  const int64_t N = a.z[0], H = a.z[1], D = a.z[2], width = H * D;
  Workspace::Scope scope(exec.workspace);
  float* rate = exec.workspace.take<float>(width);
  float* bias = exec.workspace.take<float>(width);
  float* sums = exec.workspace.take<float>(2 * block_count(N) * width);
  double* head_sum = exec.workspace.take<double>(width);
  for (int64_t h = 0; h < H; ++h) {
    const double per_head = std::exp(double{a.a_log.as<float>()[h]});
    std::fill_n(rate + h * D, D, static_cast<float>(a.kind == DecayGateKind::softplus ? -per_head : per_head));
    if (a.dt_bias) std::copy_n(a.dt_bias.row<float>(h), D, bias + h * D);
    else std::fill_n(bias + h * D, D, 0.0f);
  }
  exec.pool.parallel_for(block_count(N), 1, [&](int64_t block_begin, int64_t block_end, int) {
    for (int64_t block = block_begin; block < block_end; ++block) {
      float* sum = sums + 2 * block * width;
      HWY_DYNAMIC_DISPATCH(bwd_rows)
      (a, rate, bias, block * kBlockTokens, std::min(N, (block + 1) * kBlockTokens), sum, sum + width);
    }
  });
  exec.pool.parallel_for(H, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t h = begin; h < end; ++h) add_block_sums(a, sums, h, head_sum + h * D);
  });
}

}  // namespace linnet::ops
#endif
