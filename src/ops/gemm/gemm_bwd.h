// Gradients of products against weights: contract. Definition: gemm_ref_bwd.cpp. How they run on the forward's kernels:
// README.md.
#pragma once

#include "ops/gemm/gemm.h"

namespace linnet::ops {

// Of one product  y[m, n] = sum_k x[row(m), k] w[n, k]:
//   dx[m, k] (+)= sum_n dy[m, n] w[n, k]         one row for each m, also where `rows` gathers
//   dw[n, k]  +=  sum_m dy[m, n] x[row(m), k]
struct GemmBwdProblem {
  ConstTensor x;                  // [Mx, K] f32, row stride free; may be absent when dw is
  ConstTensor w_t;                // [K, N] f32, bf16 or f16, dense: the transpose of w; may be absent when dx is
  ConstTensor dy;                 // [M, N] f32, row stride free
  Tensor dx;                      // [M, K] f32, row stride free; absent: not wanted
  Tensor dw;                      // [N, K] f32, row stride free, added to; absent: not wanted
  const int32_t* rows = nullptr;  // [M] rows of x; null: row(m) = m
  bool accumulate_dx = false;
  // bf16: where the CPU has such products, x and dy are rounded to bf16 (for dx: when w_t is bf16 and M > kGemvRows);
  // f32: nothing is ever rounded.
  DType compute = DType::bf16;
};

// A batch of independent gradients, run together. Sums are f32. dx of one problem may be dx of a later one with accumulate_dx:
// they are added in the order of the list; likewise dw. No other outputs overlap, and no output overlaps an input. M == 0 is
// allowed. Scratch does not grow with M. Bits do not depend on the thread count, nor on the other problems.
struct GemmBwdArgs {
  std::span<const GemmBwdProblem> problems;
};
// Throws InvalidArgument naming the problem and the tensor.
Plan<GemmBwdArgs> plan_gemm_bwd(const GemmBwdArgs& args, Isa isa = active_isa());
std::span<const Variant<GemmBwdArgs>> gemm_bwd_variants();
const Variant<GemmBwdArgs>& gemm_bwd_variant(Isa needs);  // as gemm_variant
void gemm_ref_bwd(const GemmBwdArgs& args);

// to[k, n] = from[n, k], of one dtype (f32, bf16, f16) or narrowed from f32. For the transposed copies of weights.
void transpose(ConstTensor from, Tensor to, const Exec& exec);

// What products read of a weight matrix that is trained: w = from, w_t = its transpose, both f32 or both bf16 (nearest, ties to
// even). One pass over all matrices together.
struct WeightCopies {
  ConstTensor from;  // [N, K] f32, dense
  Tensor w;          // [N, K], dense
  Tensor w_t;        // [K, N], dense
};
void copy_weights(std::span<const WeightCopies> matrices, const Exec& exec);

}  // namespace linnet::ops
