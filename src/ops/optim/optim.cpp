// Optimizer steps: validation, the tables of variants, AdamW and the sum of squares.
#include "ops/optim/optim.h"

#include <algorithm>
#include <cmath>

#include "core/task_list.h"
#include "ops/gemm/gemm.h"
#include "ops/optim/optim_kernels.h"

namespace linnet::ops {
namespace {

constexpr int64_t kSpan = 16384;  // elements of one task

void run_adamw(const AdamWArgs& a, const Exec& exec) noexcept {
  const double step = static_cast<double>(a.step);
  const optim::AdamWFactors factors{
      .grad_scale = a.grad_scale,
      .beta1 = a.beta1,
      .one_minus_beta1 = static_cast<float>(1 - double{a.beta1}),
      .beta2 = a.beta2,
      .one_minus_beta2 = static_cast<float>(1 - double{a.beta2}),
      .m_correction = static_cast<float>(1 / (1 - std::pow(double{a.beta1}, step))),
      .v_correction = static_cast<float>(1 / (1 - std::pow(double{a.beta2}, step))),
      .eps = a.eps,
      .lr = a.lr,
      .decay = a.lr * a.weight_decay,
  };
  const int64_t n = a.w.elements();
  exec.pool.parallel_for((n + kSpan - 1) / kSpan, 1, [&](int64_t begin, int64_t end, int) {
    const int64_t first = begin * kSpan, last = std::min(n, end * kSpan);
    optim::adamw_span({.w = a.w.as<float>() + first,
                       .m = a.m.as<float>() + first,
                       .v = a.v.as<float>() + first,
                       .grad = a.grad.as<float>() + first,
                       .n = last - first},
                      factors);
  });
}

constexpr Variant<AdamWArgs> kAdamWVariants[] = {{"simd", Isa::baseline, no_refusal, no_workspace, run_adamw}};

template <Isa needs>
constexpr Variant<MuonArgs> muon(const char* name) {
  return {name, needs, [](const MuonArgs&) { return gemm_variant(needs).refusal({}); },
          [](const MuonArgs& a, int n_threads) { return optim::muon_workspace_bytes(a, n_threads, needs); },
          [](const MuonArgs& a, const Exec& exec) noexcept { optim::run_muon(a, exec, needs); }};
}

constexpr Variant<MuonArgs> kMuonVariants[] = {
#if defined(__x86_64__)
    muon<Isa::amx>("amx"),
    muon<Isa::avx512_bf16>("avx512_bf16"),
#endif
    muon<Isa::baseline>("simd"),
};

void expect_dense(const char* op, const char* name, const ConstTensor& t) {
  if (!t.dense())
    throw InvalidArgument(cat(op, ": ", name, ": expected dense rows, got a row stride of ", t.row_stride));
}

// Same dtype f32, shape and density as w.
void expect_like(const char* op, const char* name, const ConstTensor& t, const ConstTensor& w) {
  if (t.dtype != DType::f32 || t.rank != w.rank || t.shape != w.shape || (!t.data && t.elements() > 0))
    throw InvalidArgument(cat(op, ": ", name, ": expected the shape of w, ", text_of(w), ", got ", text_of(t)));
  expect_dense(op, name, t);
}

}  // namespace

Plan<AdamWArgs> plan_adamw(const AdamWArgs& a, Isa isa) {
  constexpr const char* kOp = "adamw";
  if (!a.w || a.w.dtype != DType::f32) throw InvalidArgument(cat(kOp, ": w: expected f32, got ", text_of(a.w)));
  expect_like(kOp, "w", a.w, a.w);
  expect_like(kOp, "m", a.m, a.w);
  expect_like(kOp, "v", a.v, a.w);
  expect_like(kOp, "grad", a.grad, a.w);
  if (a.step < 1) throw InvalidArgument(cat(kOp, ": step: expected at least 1, got ", a.step));
  return choose_variant<AdamWArgs>(kOp, kAdamWVariants, a, isa);
}

std::span<const Variant<MuonArgs>> muon_variants() { return kMuonVariants; }

Plan<MuonArgs> plan_muon(const MuonArgs& a, Isa isa) {
  for (size_t i = 0; i < a.matrices.size(); ++i) {
    const std::string op = cat("muon: matrix ", i);
    const MuonMatrix& matrix = a.matrices[i];
    expect_tensor(op.c_str(), "w", matrix.w, DType::f32, {-1, -1});
    expect_dense(op.c_str(), "w", matrix.w);
    expect_like(op.c_str(), "m", matrix.m, matrix.w);
    expect_like(op.c_str(), "grad", matrix.grad, matrix.w);
  }
  if (a.compute != DType::bf16 && a.compute != DType::f32)
    throw InvalidArgument(cat("muon: compute: expected bf16 or f32, got ", name_of(a.compute)));
  return choose_variant<MuonArgs>("muon", kMuonVariants, a, isa);
}

// Of each tensor at most kParts sums, of as many elements as its size alone says, added in order.
std::vector<double> sums_of_squares(std::span<const ConstTensor> tensors, const Exec& exec) {
  constexpr int64_t kParts = 256;
  const auto span_of = [](int64_t n) { return std::max((n + kParts - 1) / kParts, kSpan); };
  const auto parts_of = [&](int64_t n) { return (n + span_of(n) - 1) / span_of(n); };
  std::vector<int64_t> first;  // part of each tensor
  int64_t n_parts = 0;
  for (const ConstTensor& x : tensors) {
    if (x.dtype != DType::f32) throw InvalidArgument(cat("sums_of_squares: x: expected f32, got ", text_of(x)));
    expect_dense("sums_of_squares", "x", x);
    first.push_back(n_parts), n_parts += parts_of(x.elements());
  }
  std::vector<double> parts(static_cast<size_t>(n_parts)), sums(tensors.size());
  const auto count = [&](int64_t i) { return parts_of(tensors[static_cast<size_t>(i)].elements()); };
  for_tasks(exec.pool, static_cast<int64_t>(tensors.size()), 1, count, [&](int64_t i, int64_t part) {
    const ConstTensor& x = tensors[static_cast<size_t>(i)];
    const int64_t n = x.elements(), span = span_of(n);
    parts[static_cast<size_t>(first[static_cast<size_t>(i)] + part)] =
        optim::sum_of_squares_span(x.as<float>() + part * span, std::min(span, n - part * span));
  });
  for (size_t i = 0; i < tensors.size(); ++i)
    for (int64_t part = 0; part < count(static_cast<int64_t>(i)); ++part)
      sums[i] += parts[static_cast<size_t>(first[i] + part)];
  return sums;
}

}  // namespace linnet::ops
