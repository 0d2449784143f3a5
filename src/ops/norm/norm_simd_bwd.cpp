// Gradients of the normalisations with Highway vectors, row by row: one pass over x and dy for the two sums of a row, one for the
// results while the row is in L1. Weight gradients: a sum for each block of tokens, then these in order.
#include <algorithm>
#include <cmath>

#include "ops/norm/norm_bwd.h"
#include "ops/token_blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/norm/norm_simd_bwd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/activation/activation-inl.h"
#include "ops/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace linnet::ops {
namespace HWY_NAMESPACE {
namespace {

struct RowSums {
  float squares, products;
};

// sum x^2 and sum x g(in...): two accumulators each, their order depends on n and the vector width only.
template <class G, class... T>
HWY_INLINE RowSums row_sums(int64_t n, G g, const float* x, const T*... in) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, p0 = s0, p1 = s0;
  int64_t i = 0;
  for (; i + 2 * L <= n; i += 2 * L) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + L);
    s0 = hn::MulAdd(x0, x0, s0), s1 = hn::MulAdd(x1, x1, s1);
    p0 = hn::MulAdd(x0, g(hn::LoadU(d, in + i)...), p0), p1 = hn::MulAdd(x1, g(hn::LoadU(d, in + i + L)...), p1);
  }
  for (; i < n; i += L) {
    const int64_t rest = std::min(L, n - i);
    const auto v = load_f32_n(d, x + i, rest);
    s0 = hn::MulAdd(v, v, s0), p0 = hn::MulAdd(v, g(load_f32_n(d, in + i, rest)...), p0);
  }
  return {hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1))), hn::GetLane(hn::SumOfLanes(d, hn::Add(p0, p1)))};
}

// dweight_sum [C] is added to.
void rms_norm_rows_bwd(const RmsNormBwdArgs& a, int64_t begin, int64_t end, float* dweight_sum) {
  const hn::ScalableTag<float> d;
  const int64_t C = a.x[1];
  const float* weight = a.weight.as<float>();
  for (int64_t n = begin; n < end; ++n) {
    const float *x = a.x.row<float>(n), *dy = a.dy.row<float>(n);
    float* dx = a.dx.row<float>(n);
    const auto product = [](auto v, auto w) HWY_ATTR { return hn::Mul(v, w); };
    const RowSums sums = row_sums(C, product, x, dy, weight);
    const float inverse = 1 / std::sqrt(sums.squares / static_cast<float>(C) + a.eps);
    const auto r = hn::Set(d, inverse), mean = hn::Set(d, inverse * (sums.products / static_cast<float>(C)));
    const auto row = [&](auto& out, auto& sum, auto v, auto g, auto w, auto sum_before) HWY_ATTR {
      const auto y = hn::Mul(v, r);
      out = hn::Mul(r, hn::NegMulAdd(y, mean, hn::Mul(g, w)));
      sum = hn::MulAdd(g, y, sum_before);
    };
    const auto added_row = [&](auto& out, auto& sum, auto v, auto g, auto w, auto sum_before, auto before) HWY_ATTR {
      row(out, sum, v, g, w, sum_before);
      out = hn::Add(before, out);
    };
    const float *sum_before = dweight_sum, *before = dx;
    if (a.accumulate) map2_f32(C, dx, dweight_sum, added_row, x, dy, weight, sum_before, before);
    else map2_f32(C, dx, dweight_sum, row, x, dy, weight, sum_before);
  }
}

void l2_norm_rows_bwd(const L2NormBwdArgs& a, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t H = a.x[1], D = a.x[2];
  for (int64_t n = begin; n < end; ++n)
    for (int64_t h = 0; h < H; ++h) {
      const float *x = a.x.row<float>(n) + h * D, *dy = a.dy.row<float>(n) + h * D;
      const auto same = [](auto v) HWY_ATTR { return v; };
      const RowSums sums = row_sums(D, same, x, dy);
      const float inverse = 1 / std::sqrt(sums.squares + a.eps);
      const auto r = hn::Set(d, inverse), along = hn::Set(d, inverse * sums.products);
      const auto row = [&](auto v, auto g) HWY_ATTR { return hn::Mul(r, hn::NegMulAdd(hn::Mul(v, r), along, g)); };
      map_f32(D, a.dx.row<float>(n) + h * D, row, x, dy);
    }
}

// act [D], slope [D]: the gate's activation and its derivative.
void activate(GateActivation activation, int64_t D, const float* gate, float* act, float* slope) {
  const hn::ScalableTag<float> d;
  const auto sigmoid = [&](auto& value, auto& derivative, auto z) HWY_ATTR {
    auto complement = z;
    sigmoid_both_f32(d, z, value, complement);
    derivative = hn::Mul(value, complement);
  };
  const auto silu = [&](auto& value, auto& derivative, auto z) HWY_ATTR {
    const auto s = sigmoid_f32(d, z);
    value = hn::Mul(z, s), derivative = silu_slope_f32(d, z, s);
  };
  if (activation == GateActivation::sigmoid) map2_f32(D, act, slope, sigmoid, gate);
  else map2_f32(D, act, slope, silu, gate);
}

// dweight_sum [D] is added to; act and slope: [D] scratch. The weight's part comes first: dx may be written over dy.
void gated_norm_rows_bwd(const GatedNormBwdArgs& a, int64_t begin, int64_t end, float* dweight_sum, float* act,
                         float* slope) {
  const hn::ScalableTag<float> d;
  const int64_t H = a.x[1], D = a.x[2];
  const float* weight = a.weight.as<float>();
  const float *act_in = act, *slope_in = slope, *sum_before = dweight_sum;
  for (int64_t n = begin; n < end; ++n)
    for (int64_t h = 0; h < H; ++h) {
      const float *x = a.x.row<float>(n) + h * D, *dy = a.dy.row<float>(n) + h * D;
      activate(a.activation, D, a.gate.row<float>(n) + h * D, act, slope);
      const auto product = [](auto g, auto w, auto s) HWY_ATTR { return hn::Mul(hn::Mul(g, s), w); };
      const RowSums sums = row_sums(D, product, x, dy, weight, act_in);
      const float inverse = 1 / std::sqrt(sums.squares / static_cast<float>(D) + a.eps);
      const auto r = hn::Set(d, inverse), mean = hn::Set(d, inverse * (sums.products / static_cast<float>(D)));
      const auto weight_row = [&](auto v, auto g, auto s, auto sum)
                                  HWY_ATTR { return hn::MulAdd(hn::Mul(g, s), hn::Mul(v, r), sum); };
      const auto row = [&](auto& dx, auto& dgate, auto v, auto g, auto w, auto s, auto ds) HWY_ATTR {
        const auto y = hn::Mul(v, r), scaled = hn::Mul(g, w);
        dx = hn::Mul(r, hn::NegMulAdd(y, mean, hn::Mul(scaled, s)));
        dgate = hn::Mul(hn::Mul(scaled, y), ds);
      };
      map_f32(D, dweight_sum, weight_row, x, dy, act_in, sum_before);
      map2_f32(D, a.dx.row<float>(n) + h * D, a.dgate.row<float>(n) + h * D, row, x, dy, weight, act_in, slope_in);
    }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace linnet::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace linnet::ops {
namespace {
HWY_EXPORT(rms_norm_rows_bwd);
HWY_EXPORT(l2_norm_rows_bwd);
HWY_EXPORT(gated_norm_rows_bwd);

// Elements below which another thread costs more than it saves.
constexpr int64_t kGrainElements = 16384;

size_t row_bytes(int64_t n) { return aligned_size(static_cast<size_t>(n) * sizeof(float)); }

// rows(begin, end, sum, thread) over every block of tokens, sum [width] starting as zeros; then dweight += these sums.
template <class Rows>
void sum_over_blocks(int64_t n_tokens, int64_t token_elements, int64_t width, float* dweight, const Exec& exec,
                     Rows rows) {
  const TokenBlocks blocks(n_tokens);
  float* sums = exec.workspace.take<float>(blocks.count * width);
  const int64_t grain = ceil_div(kGrainElements, blocks.size * token_elements);
  exec.pool.parallel_for(blocks.count, grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t block = begin; block < end; ++block) {
      float* sum = sums + block * width;
      std::fill_n(sum, width, 0.0f);
      rows(blocks.begin(block), blocks.end(block), sum, thread);
    }
  });
  add_block_sums(exec, sums, blocks.count, width, dweight);
}
}  // namespace

size_t rms_norm_simd_bwd_workspace(const RmsNormBwdArgs& a, int) {
  return row_bytes(TokenBlocks::bound(a.x[0]) * a.x[1]);
}

void rms_norm_simd_bwd(const RmsNormBwdArgs& a, const Exec& exec) noexcept {
  Workspace::Scope scope(exec.workspace);
  sum_over_blocks(a.x[0], a.x[1], a.x[1], a.dweight.as<float>(), exec,
                  [&](int64_t begin, int64_t end, float* sum, int) {
                    HWY_DYNAMIC_DISPATCH(rms_norm_rows_bwd)(a, begin, end, sum);
                  });
}

void l2_norm_simd_bwd(const L2NormBwdArgs& a, const Exec& exec) noexcept {
  const int64_t grain = std::max<int64_t>(1, kGrainElements / a.x.row_elements());
  exec.pool.parallel_for(a.x[0], grain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(l2_norm_rows_bwd)(a, begin, end);
  });
}

size_t gated_norm_simd_bwd_workspace(const GatedNormBwdArgs& a, int n_threads) {
  return row_bytes(TokenBlocks::bound(a.x[0]) * a.x[2]) + static_cast<size_t>(n_threads) * 2 * row_bytes(a.x[2]);
}

void gated_norm_simd_bwd(const GatedNormBwdArgs& a, const Exec& exec) noexcept {
  Workspace::Scope scope(exec.workspace);
  const int64_t D = a.x[2], stride = static_cast<int64_t>(row_bytes(D) / sizeof(float));
  float* scratch = exec.workspace.take<float>(exec.pool.size() * 2 * stride);
  sum_over_blocks(a.x[0], a.x.row_elements(), D, a.dweight.as<float>(), exec,
                  [&](int64_t begin, int64_t end, float* sum, int thread) {
                    float* mine = scratch + thread * 2 * stride;
                    HWY_DYNAMIC_DISPATCH(gated_norm_rows_bwd)(a, begin, end, sum, mine, mine + stride);
                  });
}

}  // namespace linnet::ops
#endif
