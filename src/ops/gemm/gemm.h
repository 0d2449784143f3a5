// Dense products against weights: contract of the op. Definition: gemm_ref.cpp. Prose, variants and floors: README.md.
#pragma once

#include <span>

#include "core/tensor.h"
#include "core/variant.h"

namespace linnet::ops {

// One product  y[m, n] (+)= sum_k x[row(m), k] * w(n, k),  row(m) = rows ? rows[m] : m.
struct GemmProblem {
  ConstTensor x;                  // [Mx, K] f32, row stride free
  ConstTensor w;                  // [N, K] f32, bf16 or f16, row stride free; with w_is_in_out: [K, N]
  Tensor y;                       // [M, N] f32, row stride free; must not alias x
  const int32_t* rows = nullptr;  // [M] rows of x, each in [0, Mx); null: Mx == M and row(m) = m
  bool w_is_in_out = false;  // w holds [K, N] (input-major): the transposed product, used where a weight is absorbed
  bool x_is_in_out =
      false;  // x holds [K, M]: its columns are the rows of the product; neither rows nor w_is_in_out then
  bool accumulate = false;  // add to y instead of overwriting it
  bool exact = false;       // keep x in f32 whatever the path (router logits, beta): never round it to bf16
};

// A batch of independent products, run as one parallel region: the projections of one input, or the experts of one
// layer. Neighbours in the list with the same x and rows share its packing. Products with M == 0 are allowed and do
// nothing (x, w, y may then be absent memory). y must not overlap another problem's y or x.
//
// Accumulation is f32, along k in ascending order for each y(m, n) within a variant; so y(m, n) does not depend on M,
// on the other problems or on the thread count, except that by_count takes a problem with few rows (M <= kGemvRows, not
// x_is_in_out) to the dot-product kernel, whose order differs. A form that is fixed leaves no exception. With bf16 w,
// neither exact nor w_is_in_out, x is rounded to bf16 (nearest even) and subnormal numbers are taken for zero: by avx512_bf16 always, by
// amx in the products that run on tiles.
// Everything else widens w to f32.
enum class GemmForm : uint8_t {
  by_count,  // what is cheapest for the number of rows: dots up to kGemvRows, else tiles
  tiles,     // also for few rows
  dots,      // also for many rows; not with x_is_in_out
};
struct GemmArgs {
  std::span<const GemmProblem> problems;
  GemmForm form = GemmForm::by_count;  // w_is_in_out has one kernel only
};

constexpr int64_t kGemvRows = 8;

// Throws InvalidArgument naming the problem and the tensor. Planning is cheap; a plan holds for any batch whose
// workspace fits.
Plan<GemmArgs> plan_gemm(const GemmArgs& args, Isa isa = active_isa());
std::span<const Variant<GemmArgs>> gemm_variants();
// The variant that needs exactly this, for operators made of products: one variant of theirs for each variant of these, and
// nothing to choose while they run. Throws InternalError when there is none.
const Variant<GemmArgs>& gemm_variant(Isa needs);

// Scratch bytes that suffice for any batch of products (by_count) whose widths are at most k and whose rows, counted once for
// neighbours that share them, are at most `rows` (those of an x_is_in_out in steps of 16). Most of it is address space: a
// batch touches what it packs.
size_t gemm_workspace_bytes(int64_t rows, int64_t k, int n_threads);

// The definition: plain loops, accumulation in double.
void gemm_ref(const GemmArgs& args);

}  // namespace linnet::ops
