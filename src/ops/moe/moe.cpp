// Mixture-of-experts routing and its gradients: validation, the tables of variants, and the counting sort.
#include "ops/moe/moe.h"

#include <algorithm>
#include <utility>

#include "ops/moe/moe_bwd.h"

namespace linnet::ops {

void router_simd(const RouterArgs&, const Exec&) noexcept;  // moe_simd.cpp
size_t router_simd_workspace(const RouterArgs&, int n_threads);
void combine_simd(const CombineArgs&, const Exec&) noexcept;
void router_simd_bwd(const RouterBwdArgs&, const Exec&) noexcept;  // moe_simd_bwd.cpp
size_t router_simd_bwd_workspace(const RouterBwdArgs&, int n_threads);
void combine_simd_bwd(const CombineBwdArgs&, const Exec&) noexcept;

namespace {

constexpr Variant<RouterArgs> kRouterVariants[] = {
    {"simd", Isa::baseline, no_refusal, router_simd_workspace, router_simd}};
constexpr Variant<CombineArgs> kCombineVariants[] = {{"simd", Isa::baseline, no_refusal, no_workspace, combine_simd}};
constexpr Variant<RouterBwdArgs> kRouterBwdVariants[] = {
    {"simd", Isa::baseline, no_refusal, router_simd_bwd_workspace, router_simd_bwd}};
constexpr Variant<CombineBwdArgs> kCombineBwdVariants[] = {
    {"simd", Isa::baseline, no_refusal, no_workspace, combine_simd_bwd}};

constexpr int64_t kDispatchTokens = 512;  // of a block: some microseconds of work
int64_t dispatch_blocks(int64_t n_tokens) { return (n_tokens + kDispatchTokens - 1) / kDispatchTokens; }

}  // namespace

Plan<RouterArgs> plan_router(const RouterArgs& a, Isa isa) {
  constexpr const char* kOp = "moe_router";
  expect_tensor(kOp, "logits", a.logits, DType::f32, {-1, -1});
  const int64_t N = a.logits[0], E = a.logits[1];
  if (a.bias) expect_tensor(kOp, "bias", a.bias, DType::f32, {E});
  expect_tensor(kOp, "experts", a.experts, DType::i32, {N, -1});
  const int64_t K = a.experts[1];
  if (K < 1 || K > E) throw InvalidArgument(cat(kOp, ": experts: expected 1 to ", E, " a token, got ", K));
  expect_tensor(kOp, "weights", a.weights, DType::f32, {N, K});
  if (a.n_groups < 1 || E % a.n_groups != 0)
    throw InvalidArgument(cat(kOp, ": n_groups: expected a divisor of ", E, " experts, got ", a.n_groups));
  if (a.topk_groups < 1 || a.topk_groups > a.n_groups)
    throw InvalidArgument(cat(kOp, ": topk_groups: expected 1 to ", a.n_groups, ", got ", a.topk_groups));
  return choose_variant<RouterArgs>(kOp, kRouterVariants, a, isa);
}

// Blocks of tokens are counted, then sorted, each on its own: `at` [blocks, E] holds how many pairs of a block go to each expert,
// then where the next of them goes. A block's places follow those of the blocks before it.
void moe_dispatch(const DispatchArgs& a, const Exec& exec) noexcept {
  const int64_t N = a.experts[0], K = a.experts[1], E = a.expert_start[0] - 1;
  const int64_t n_blocks = dispatch_blocks(N);
  const Workspace::Scope scope(exec.workspace);
  int32_t* at = exec.workspace.take<int32_t>(n_blocks * E);
  const auto for_pairs = [&](const auto& body) {  // body(expert's counter, token, slot)
    exec.pool.parallel_for(n_blocks, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t block = begin; block < end; ++block)
        for (int64_t n = block * kDispatchTokens; n < std::min(N, (block + 1) * kDispatchTokens); ++n)
          for (int64_t k = 0; k < K; ++k) body(at[block * E + a.experts.row<int32_t>(n)[k]], n, k);
    });
  };
  std::fill_n(at, n_blocks * E, 0);
  for_pairs([](int32_t& count, int64_t, int64_t) { ++count; });
  int32_t start = 0;
  for (int64_t e = 0; e < E; ++e) {
    a.expert_start.as<int32_t>()[e] = start;
    for (int64_t block = 0; block < n_blocks; ++block) start += std::exchange(at[block * E + e], start);
  }
  a.expert_start.as<int32_t>()[E] = start;
  for_pairs([&](int32_t& next, int64_t n, int64_t k) {
    a.token.as<int32_t>()[next] = static_cast<int32_t>(n);
    a.position.row<int32_t>(n)[k] = next++;
  });
}

size_t moe_dispatch_bytes(int64_t n_tokens, int64_t n_experts) {
  return aligned_size(static_cast<size_t>(dispatch_blocks(n_tokens) * n_experts) * sizeof(int32_t));
}

Plan<CombineArgs> plan_combine(const CombineArgs& a, Isa isa) {
  constexpr const char* kOp = "moe_combine";
  expect_tensor(kOp, "position", a.position, DType::i32, {-1, -1});
  const int64_t N = a.position[0], K = a.position[1];
  if (K < 1)
    throw InvalidArgument(cat(kOp, ": position: expected at least one expert a token, got ", text_of(a.position)));
  expect_tensor(kOp, "weights", a.weights, DType::f32, {N, K});
  expect_tensor(kOp, "x", a.x, DType::f32, {N * K, -1});
  expect_tensor(kOp, "y", a.y, DType::f32, {N, a.x[1]});
  return choose_variant<CombineArgs>(kOp, kCombineVariants, a, isa);
}

Plan<RouterBwdArgs> plan_router_bwd(const RouterBwdArgs& a, Isa isa) {
  constexpr const char* kOp = "moe_router_bwd";
  expect_tensor(kOp, "logits", a.logits, DType::f32, {-1, -1});
  const int64_t N = a.logits[0], E = a.logits[1];
  if (a.bias) expect_tensor(kOp, "bias", a.bias, DType::f32, {E});
  expect_tensor(kOp, "experts", a.experts, DType::i32, {N, -1});
  const int64_t K = a.experts[1];
  if (K < 1 || K > E) throw InvalidArgument(cat(kOp, ": experts: expected 1 to ", E, " a token, got ", K));
  expect_tensor(kOp, "dweights", a.dweights, DType::f32, {N, K});
  expect_tensor(kOp, "dlogits", a.dlogits, DType::f32, {N, E});
  return choose_variant<RouterBwdArgs>(kOp, kRouterBwdVariants, a, isa);
}

Plan<CombineBwdArgs> plan_combine_bwd(const CombineBwdArgs& a, Isa isa) {
  constexpr const char* kOp = "moe_combine_bwd";
  expect_tensor(kOp, "position", a.position, DType::i32, {-1, -1});
  const int64_t N = a.position[0], K = a.position[1];
  if (K < 1)
    throw InvalidArgument(cat(kOp, ": position: expected at least one expert a token, got ", text_of(a.position)));
  expect_tensor(kOp, "weights", a.weights, DType::f32, {N, K});
  expect_tensor(kOp, "x", a.x, DType::f32, {N * K, -1});
  expect_tensor(kOp, "dy", a.dy, DType::f32, {N, a.x[1]});
  expect_tensor(kOp, "dx", a.dx, DType::f32, {N * K, a.x[1]});
  expect_tensor(kOp, "dweights", a.dweights, DType::f32, {N, K});
  return choose_variant<CombineBwdArgs>(kOp, kCombineBwdVariants, a, isa);
}

}  // namespace linnet::ops
