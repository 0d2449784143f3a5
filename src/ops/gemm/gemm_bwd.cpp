// Gradients of products: validation and the table of variants, which are the forward's.
#include "ops/gemm/gemm_bwd.h"

#include "ops/gemm/gemm_kernels.h"

namespace linnet::ops {
namespace {

template <const gemm::Kernels& kernels>
constexpr Variant<GemmBwdArgs> variant(const char* name, Isa needs,
                                       std::string (*refusal)(const GemmBwdArgs&) = no_refusal) {
  return {name, needs, refusal,
          [](const GemmBwdArgs& a, int n_threads) { return gemm::bwd_workspace_bytes(a, n_threads, kernels); },
          [](const GemmBwdArgs& a, const Exec& exec) noexcept { gemm::run_bwd(a, exec, kernels); }};
}

constexpr Variant<GemmBwdArgs> kVariants[] = {
#if defined(__x86_64__)
    variant<gemm::kKernelsAmx>("amx", Isa::amx),
    variant<gemm::kKernelsAvx512Bf16>("avx512_bf16", Isa::avx512_bf16,
                                      [](const GemmBwdArgs&) { return gemm::refusal_of_avx512_bf16(); }),
#endif
    variant<gemm::kKernelsSimd>("simd", Isa::baseline),
};

void check(const GemmBwdProblem& p, size_t i) {
  if (p.dy.rank == 2 && p.dy[0] == 0) return;
  const gemm::ProblemName op("gemm_bwd", i);
  const auto fail = [&](const auto&... what) { throw InvalidArgument(cat(op.c_str(), ": ", what...)); };
  const auto expect = [&](const char* name, const ConstTensor& t, DType dtype, std::initializer_list<int64_t> dims) {
    expect_tensor(op.c_str(), name, t, dtype, dims);
    if (t.row_stride < t[1]) fail(name, ": row stride: expected at least ", t[1], ", got ", t.row_stride);
  };
  if (p.compute != DType::bf16 && p.compute != DType::f32)
    fail("compute: expected bf16 or f32, got ", name_of(p.compute));
  expect("dy", p.dy, DType::f32, {-1, -1});
  const int64_t M = p.dy[0], N = p.dy[1];
  if (p.dx) {
    const bool stored = p.w_t.dtype == DType::bf16 || p.w_t.dtype == DType::f16;
    expect("dx", p.dx, DType::f32, {M, -1});
    expect("w_t", p.w_t, stored ? p.w_t.dtype : DType::f32, {p.dx[1], N});
  }
  if (!p.dw) return;
  expect("x", p.x, DType::f32, {p.rows ? -1 : M, p.dx ? p.dx[1] : -1});
  expect("dw", p.dw, DType::f32, {N, p.x[1]});
  for (int64_t m = 0; p.rows && m < M; ++m)
    if (p.rows[m] < 0 || p.rows[m] >= p.x[0])
      fail("rows[", m, "]: expected a row of x ", text_of(p.x), ", got ", p.rows[m]);
}

}  // namespace

std::span<const Variant<GemmBwdArgs>> gemm_bwd_variants() { return kVariants; }

const Variant<GemmBwdArgs>& gemm_bwd_variant(Isa needs) {
  for (const Variant<GemmBwdArgs>& v : kVariants)
    if (v.needs == needs) return v;
  throw InternalError(cat("gemm_bwd: no variant for ", name_of(needs)));
}

Plan<GemmBwdArgs> plan_gemm_bwd(const GemmBwdArgs& args, Isa isa) {
  for (size_t i = 0; i < args.problems.size(); ++i) check(args.problems[i], i);
  return choose_variant<GemmBwdArgs>("gemm_bwd", kVariants, args, isa);
}

}  // namespace linnet::ops
