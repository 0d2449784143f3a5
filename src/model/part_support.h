// What the parts of a layer share when they run: gradients of their products, and pointers to states.
#pragma once

#include "model/layer_part.h"
#include "ops/gemm/gemm_bwd.h"
#include "ops/linear_attn/linear_attn.h"
#include "ops/mla/mla.h"

namespace linnet::model {

// What a kind of pass takes of each operator that has several forms.
static_assert(kPassChunk == ops::kLinearAttnChunk);
inline ops::GemmForm gemm_form(Step step) {
  using enum ops::GemmForm;
  return step == Step::cheapest ? by_count : step == Step::prefill ? tiles : dots;
}
inline ops::MlaForm mla_form(Step step) {
  using enum ops::MlaForm;
  return step == Step::cheapest ? by_cost : step == Step::prefill ? by_block : absorbed;
}
inline ops::LinearAttnForm linear_attn_form(Step step) {
  using enum ops::LinearAttnForm;
  return step == Step::cheapest ? by_length : step == Step::prefill ? chunks : steps;
}

enum DxMode : bool { kWrite = false, kAdd = true };

// The gradient of y = x w^T: dx (overwritten or added to), and w's own gradient added to.
inline ops::GemmBwdProblem gradient(ConstTensor x, const MatrixParameter& p, ConstTensor dy, Tensor dx,
                                    DxMode mode = kWrite) {
  return {
      .x = x, .w_t = p.w_t, .dy = dy, .dx = dx, .dw = p.grad, .accumulate_dx = mode == kAdd, .compute = p.compute()};
}

// Of a product whose forward is `exact`: nothing is rounded.
inline ops::GemmBwdProblem exact(ops::GemmBwdProblem problem) {
  problem.compute = DType::f32;
  return problem;
}

// Pointers to one per-sequence state tensor of every sequence; null when there are no states.
inline float** state_pointers(std::span<const LayerState> states, size_t index, Workspace& scratch) {
  if (states.empty()) return nullptr;
  float** pointers = scratch.take<float*>(static_cast<int64_t>(states.size()));
  for (size_t b = 0; b < states.size(); ++b) pointers[b] = reinterpret_cast<float*>(states[b][index].data);
  return pointers;
}

}  // namespace linnet::model
