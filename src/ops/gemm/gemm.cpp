// Products against weights: validation and the table of variants.
#include "ops/gemm/gemm.h"

#include "ops/gemm/gemm_kernels.h"

namespace linnet::ops {
namespace {

template <const gemm::Kernels& kernels>
constexpr Variant<GemmArgs> variant(const char* name, Isa needs, std::string (*refusal)(const GemmArgs&) = no_refusal) {
  return {name, needs, refusal,
          [](const GemmArgs& a, int n_threads) { return gemm::batch_workspace_bytes(a, n_threads, kernels); },
          [](const GemmArgs& a, const Exec& exec) noexcept { gemm::run_batch(a, exec, kernels); }};
}

// A variant is a choice of kernels for tiles; the rows of few, exact and in_out problems are the same in all. So each
// takes any batch, whatever it mixes.
constexpr Variant<GemmArgs> kVariants[] = {
#if defined(__x86_64__)
    variant<gemm::kKernelsAmx>("amx", Isa::amx),
    variant<gemm::kKernelsAvx512Bf16>("avx512_bf16", Isa::avx512_bf16,
                                      [](const GemmArgs&) { return gemm::refusal_of_avx512_bf16(); }),
#endif
    variant<gemm::kKernelsSimd>("simd", Isa::baseline),
};

void check(const GemmProblem& p, GemmForm form, size_t i) {
  if (p.y.rank == 2 && p.y[0] == 0) return;
  const gemm::ProblemName op("gemm", i);
  const auto fail = [&](const auto&... what) { throw InvalidArgument(cat(op.c_str(), ": ", what...)); };
  const auto expect = [&](const char* name, const ConstTensor& t, DType dtype, std::initializer_list<int64_t> dims) {
    expect_tensor(op.c_str(), name, t, dtype, dims);
    if (t.row_stride < t[1]) fail(name, ": row stride: expected at least ", t[1], ", got ", t.row_stride);
  };
  expect("y", p.y, DType::f32, {-1, -1});
  if (p.x_is_in_out && (p.rows || p.w_is_in_out)) fail("x_is_in_out: expected neither rows nor w_is_in_out");
  if (p.x_is_in_out && form == GemmForm::dots) fail("x_is_in_out: expected by_count or tiles, got dots");
  if (p.x_is_in_out) expect("x", p.x, DType::f32, {-1, p.y[0]});
  else expect("x", p.x, DType::f32, {p.rows ? -1 : p.y[0], -1});
  const bool stored = p.w.dtype == DType::bf16 || p.w.dtype == DType::f16;
  const int64_t N = p.y[1], K = p.x[p.x_is_in_out ? 0 : 1];
  if (p.w_is_in_out) expect("w", p.w, stored ? p.w.dtype : DType::f32, {K, N});
  else expect("w", p.w, stored ? p.w.dtype : DType::f32, {N, K});
  for (int64_t m = 0; p.rows && m < p.y[0]; ++m)
    if (p.rows[m] < 0 || p.rows[m] >= p.x[0])
      fail("rows[", m, "]: expected a row of x ", text_of(p.x), ", got ", p.rows[m]);
}

}  // namespace

std::span<const Variant<GemmArgs>> gemm_variants() { return kVariants; }

const Variant<GemmArgs>& gemm_variant(Isa needs) {
  for (const Variant<GemmArgs>& v : kVariants)
    if (v.needs == needs) return v;
  throw InternalError(cat("gemm: no variant for ", name_of(needs)));
}

Plan<GemmArgs> plan_gemm(const GemmArgs& args, Isa isa) {
  for (size_t i = 0; i < args.problems.size(); ++i) check(args.problems[i], args.form, i);
  return choose_variant<GemmArgs>("gemm", kVariants, args, isa);
}

// Intel's Sapphire Rapids starts a vdpbf16ps every other cycle, a quarter of its f32 multiply-adds: half their rate.
std::string gemm::refusal_of_avx512_bf16() {
#if defined(__x86_64__)
  if (__builtin_cpu_is("intel")) return "f32 is faster on this CPU";
#endif
  return {};
}

size_t gemm_workspace_bytes(int64_t rows, int64_t k, int n_threads) {
  return gemm::workspace_bound(rows, k, n_threads);
}

}  // namespace linnet::ops
