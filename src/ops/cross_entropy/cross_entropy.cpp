// Head with cross-entropy: validation, the table of variants (those of the products), and the pass over blocks of tokens.
#include "ops/cross_entropy/cross_entropy.h"

#include <algorithm>

#include "ops/cross_entropy/cross_entropy_rows.h"
#include "ops/gemm/gemm.h"
#include "ops/gemm/gemm_bwd.h"

namespace linnet::ops {
namespace {

// Tokens whose logits are stored at a time. Few: each block reads all weights and all of dw again; many: more scratch.
// 64 MiB of logits, at least 128 tokens, at most 512.
constexpr int64_t kBlockLogits = 16 << 20;
int64_t block_tokens(const CrossEntropyArgs& a) {
  const int64_t tokens = std::clamp<int64_t>(kBlockLogits / std::max<int64_t>(a.w[0], 1) / 32 * 32, 128, 512);
  return std::min(tokens, a.hidden[0]);
}

GemmProblem logits_problem(const CrossEntropyArgs& a, const Tensor& logits, int64_t begin, int64_t end) {
  return {.x = a.hidden.rows(begin, end), .w = a.w, .y = logits, .exact = a.compute == DType::f32};
}
GemmBwdProblem gradient_problem(const CrossEntropyArgs& a, const Tensor& dlogits, int64_t begin, int64_t end) {
  return {.x = a.hidden.rows(begin, end),
          .w_t = a.w_t,
          .dy = dlogits,
          .dx = a.dhidden.rows(begin, end),
          .dw = a.dw,
          .compute = a.compute};
}

template <Isa needs>
size_t workspace_bytes(const CrossEntropyArgs& a, int n_threads) {
  const int64_t tokens = block_tokens(a);
  const Tensor logits(nullptr, DType::f32, {tokens, a.w[0]});
  const GemmProblem forward = logits_problem(a, logits, 0, tokens);
  size_t bytes = gemm_variant(needs).workspace_bytes({{&forward, 1}}, n_threads);
  if (a.dhidden) {
    const GemmBwdProblem backward = gradient_problem(a, logits, 0, tokens);
    bytes = std::max(bytes, gemm_bwd_variant(needs).workspace_bytes({{&backward, 1}}, n_threads));
  }
  return bytes + aligned_size(static_cast<size_t>(logits.bytes()));
}

template <Isa needs>
void run(const CrossEntropyArgs& a, const Exec& exec) noexcept {
  const Workspace::Scope scope(exec.workspace);
  const int64_t N = a.hidden[0], V = a.w[0], block = block_tokens(a);
  float* memory = exec.workspace.take<float>(block * V);
  for (int64_t begin = 0; begin < N; begin += block) {
    const int64_t end = std::min(begin + block, N);
    const Tensor logits = Tensor::of(memory, {end - begin, V});
    const GemmProblem forward = logits_problem(a, logits, begin, end);
    gemm_variant(needs).run({{&forward, 1}}, exec);
    exec.pool.parallel_for(end - begin, 1, [&](int64_t first, int64_t last, int) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t n = begin + i;
        const int32_t target = a.target.as<int32_t>()[n];
        const float weight = a.weight ? a.weight.as<float>()[n] : 1.0f;
        const LogitsRow row{.logits = logits.row<float>(i),
                            .n = V,
                            .target = target,
                            .factor = target < 0 ? 0 : a.scale * weight,
                            .z_loss = a.z_loss,
                            .wants_gradient = bool(a.dhidden)};
        const RowLoss loss = softmax_row(row);
        a.nll.as<float>()[n] = loss.nll;
        if (a.lse) a.lse.as<float>()[n] = loss.lse;
      }
    });
    if (!a.dhidden) continue;
    const GemmBwdProblem backward = gradient_problem(a, logits, begin, end);
    gemm_bwd_variant(needs).run({{&backward, 1}}, exec);
  }
}

template <Isa needs>
constexpr Variant<CrossEntropyArgs> variant(const char* name) {
  return {name, needs, [](const CrossEntropyArgs&) { return gemm_variant(needs).refusal({}); }, workspace_bytes<needs>,
          run<needs>};
}

constexpr Variant<CrossEntropyArgs> kVariants[] = {
#if defined(__x86_64__)
    variant<Isa::amx>("amx"),
    variant<Isa::avx512_bf16>("avx512_bf16"),
#endif
    variant<Isa::baseline>("simd"),
};

void check_targets(const CrossEntropyArgs& a) {
  for (int64_t n = 0; n < a.target[0]; ++n) {
    const int32_t target = a.target.as<int32_t>()[n];
    if (target < -1 || target >= a.w[0])
      throw InvalidArgument(cat("cross_entropy: target[", n, "]: expected -1 or in [0, ", a.w[0], "), got ", target));
  }
}

}  // namespace

std::span<const Variant<CrossEntropyArgs>> cross_entropy_variants() { return kVariants; }

Plan<CrossEntropyArgs> plan_cross_entropy(const CrossEntropyArgs& a, Isa isa) {
  constexpr const char* kOp = "cross_entropy";
  const auto fail = [&](const auto&... what) { throw InvalidArgument(cat(kOp, ": ", what...)); };
  const auto weights = [](const ConstTensor& t) {
    return t.dtype == DType::bf16 || t.dtype == DType::f16 ? t.dtype : DType::f32;
  };
  expect_tensor(kOp, "hidden", a.hidden, DType::f32, {-1, -1});
  const int64_t N = a.hidden[0], C = a.hidden[1];
  expect_tensor(kOp, "w", a.w, weights(a.w), {-1, C});
  const int64_t V = a.w[0];
  if (V < 1) fail("w: expected at least one row, got ", text_of(a.w));
  if (!a.w.dense()) fail("w: expected dense rows, got a row stride of ", a.w.row_stride);
  expect_tensor(kOp, "target", a.target, DType::i32, {N});
  if (a.weight) expect_tensor(kOp, "weight", a.weight, DType::f32, {N});
  expect_tensor(kOp, "nll", a.nll, DType::f32, {N});
  if (a.lse) expect_tensor(kOp, "lse", a.lse, DType::f32, {N});
  if (a.compute != DType::bf16 && a.compute != DType::f32)
    fail("compute: expected bf16 or f32, got ", name_of(a.compute));
  if (bool(a.dhidden) != bool(a.dw)) fail("dhidden and dw: expected both or neither");
  if (a.dhidden) {
    expect_tensor(kOp, "dhidden", a.dhidden, DType::f32, {N, C});
    expect_tensor(kOp, "dw", a.dw, DType::f32, {V, C});
    expect_tensor(kOp, "w_t", a.w_t, weights(a.w_t), {C, V});
    if (!a.dw.dense()) fail("dw: expected dense rows, got a row stride of ", a.dw.row_stride);
  }
  check_targets(a);
  return choose_variant<CrossEntropyArgs>(kOp, kVariants, a, isa);
}

}  // namespace linnet::ops
