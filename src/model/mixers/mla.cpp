#include "model/mixers/mla.h"

#include <algorithm>
#include <cstring>

#include "core/bulk.h"
#include "model/part_support.h"
#include "ops/mla/mla_bwd.h"
#include "ops/norm/norm_bwd.h"

namespace linnet::model {

static_assert(kStateBlock == ops::kMlaBlock);

namespace {

void scale_row(const Tensor& matrix, int64_t row, float factor) {
  float* values = matrix.row<float>(row);
  for (int64_t i = 0; i < matrix[1]; ++i) values[i] *= factor;
}

}  // namespace

MlaMixer::MlaMixer(const ModelConfig& config, DType cache_dtype)
    : mla_(config.mla),
      hidden_(config.hidden),
      latent_eps_(config.parity.latent_norm_eps > 0 ? config.parity.latent_norm_eps : config.norm_eps),
      cache_dtype_(cache_dtype),
      latent_norm_({mla_.latent_rank}),
      max_logit_({mla_.heads}) {}

void MlaMixer::tensors(TensorTable& table, const std::string& prefix) {
  const int64_t H = mla_.heads, C = hidden_;
  table.add_matrix(prefix + "q_proj.weight", {H * mla_.query_dim(), C}, q_proj_).shard_axis = 0;
  table.add_matrix(prefix + "kv_a_proj_with_mqa.weight", {mla_.cache_dim(), C}, kv_a_);
  table.add_f32(prefix + "kv_a_layernorm.weight", {mla_.latent_rank}, latent_norm_, Init::ones);
  table.add_matrix(prefix + "kv_b_proj.weight", {H * (mla_.key_dim + mla_.value_dim), mla_.latent_rank}, kv_b_)
      .shard_axis = 0;
  table.add_matrix(prefix + "o_proj.weight", {C, H * mla_.value_dim}, o_proj_).shard_axis = 1;
}

std::vector<StateSpec> MlaMixer::state() const {
  return {{"latent", cache_dtype_, {mla_.cache_dim()}, Lifetime::per_token}};
}

int64_t MlaMixer::tape_bytes_per_token() const {
  return 4 * (mla_.heads * (mla_.query_dim() + mla_.value_dim) + 2 * mla_.cache_dim());
}

void MlaMixer::forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y, const Exec& exec,
                       Tape* tape) const {
  const int64_t N = x[0], H = mla_.heads, R = mla_.latent_rank;
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch);
  Workspace& memory = kept_in(tape, scratch);
  Activations a;
  a.q = memory.tensor<float>({N, H, mla_.query_dim()}), a.out = memory.tensor<float>({N, H, mla_.value_dim});
  a.row = memory.tensor<float>({N, mla_.cache_dim()});
  a.normed = tape ? memory.tensor<float>({N, mla_.cache_dim()}) : a.row;
  if (tape) tape->push(a);

  const ops::GemmProblem from_x[] = {{.x = x, .w = q_proj_, .y = a.q.reshaped({N, H * mla_.query_dim()})},
                                     {.x = x, .w = kv_a_, .y = a.row}};
  apply("mla projections", ops::plan_gemm, {from_x, gemm_form(pass.step)}, exec);

  // The latent is normed before it is cached; the shared key part is neither normed nor rotated.
  if (tape) copy_bytes(a.normed.data, a.row.data, a.row.bytes(), exec);
  apply("mla projections", ops::plan_rms_norm,
        {.x = a.row.columns(0, R), .weight = latent_norm_, .y = a.normed.columns(0, R), .eps = latent_eps_}, exec);

  apply("mla attention", ops::plan_mla,
        {.q = a.q,
         .kv_b = kv_b_,
         .seq_start = pass.attention_bounds(),
         .seqs = tape ? on_tape(pass, a.normed, scratch) : cached(pass, states, a.normed, scratch),
         .cache_dtype = tape ? DType::f32 : cache_dtype_,
         .R = R,
         .Dn = mla_.key_dim,
         .Dr = mla_.shared_key_dim,
         .Dv = mla_.value_dim,
         .out = a.out,
         .scale = scale(),
         .form = mla_form(pass.step)},
        exec);
  const ops::GemmProblem down[] = {{.x = a.out.reshaped({N, H * mla_.value_dim}), .w = o_proj_, .y = y}};
  apply("mla output", ops::plan_gemm, {down, gemm_form(pass.step)}, exec);
}

void MlaMixer::backward(const Pass& pass, std::span<const LayerState>, ConstTensor x, ConstTensor dy, Tensor dx,
                        const Exec& exec, Tape& tape) const {
  const int64_t N = x[0], H = mla_.heads, R = mla_.latent_rank;
  const Activations& a = tape.pop<Activations>();
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch);

  const Tensor dout = scratch.tensor<float>({N, H * mla_.value_dim});
  const ops::GemmBwdProblem down[] = {gradient(a.out.reshaped({N, H * mla_.value_dim}), o_proj_, dy, dout)};
  apply("mla output bwd", ops::plan_gemm_bwd, {down}, exec);

  const Tensor dq = scratch.tensor<float>({N, H * mla_.query_dim()}),
               drow = scratch.tensor<float>({N, mla_.cache_dim()});
  apply("mla attention bwd", ops::plan_mla_bwd,
        {.q = a.q,
         .kv_b = kv_b_.w,
         .kv_b_t = kv_b_.w_t,
         .latent = a.normed,
         .seq_start = pass.attention_bounds(),
         .out = a.out,
         .dout = dout.reshaped({N, H, mla_.value_dim}),
         .R = R,
         .Dn = mla_.key_dim,
         .Dr = mla_.shared_key_dim,
         .Dv = mla_.value_dim,
         .dq = dq.reshaped({N, H, mla_.query_dim()}),
         .dlatent = drow,
         .dkv_b = kv_b_.grad,
         .max_logit = max_logit_.view(),
         .scale = scale(),
         .compute = kv_b_.compute()},
        exec);

  const Tensor dlatent = drow.columns(0, R);
  apply("mla projections bwd", ops::plan_rms_norm_bwd,
        {.x = a.row.columns(0, R),
         .weight = latent_norm_,
         .dy = dlatent,
         .dx = dlatent,
         .dweight = latent_norm_.grad(),
         .eps = latent_eps_},
        exec);
  const ops::GemmBwdProblem from_x[] = {gradient(x, q_proj_, dq, dx), gradient(x, kv_a_, drow, dx, kAdd)};
  apply("mla projections bwd", ops::plan_gemm_bwd, {from_x}, exec);
}

// QK-clip: a head whose largest logit exceeds tau has it brought back to tau. The part of the logit that comes from the latent
// is divided among query and key; the shared key part is left alone, so its whole share is taken from the query.
void MlaMixer::after_step(const StepRules& rules, StepReport& report) {
  float* seen = max_logit_.view().as<float>();
  for (int64_t h = 0; h < mla_.heads; ++h) {
    report.max_logit = std::max(report.max_logit, seen[h]);
    if (rules.qk_clip_tau > 0 && seen[h] > rules.qk_clip_tau) {
      const float gamma = rules.qk_clip_tau / seen[h], root = std::sqrt(gamma);
      for (int64_t i = 0; i < mla_.query_dim(); ++i)
        scale_row(q_proj_.master, h * mla_.query_dim() + i, i < mla_.key_dim ? root : gamma);
      for (int64_t i = 0; i < mla_.key_dim; ++i) scale_row(kv_b_.master, h * (mla_.key_dim + mla_.value_dim) + i, root);
    }
    seen[h] = 0;
  }
}

// The cache in the states, after writing the new tokens' rows to it.
const ops::MlaSequence* MlaMixer::cached(const Pass& pass, std::span<const LayerState> states, ConstTensor rows,
                                         Workspace& scratch) const {
  const int64_t width = mla_.cache_dim(), row_bytes = width * size_of(cache_dtype_);
  const int32_t* seq_start = pass.seq_start.as<int32_t>();
  ops::MlaSequence* seqs = scratch.take<ops::MlaSequence>(pass.n_seqs());
  for (int64_t b = 0; b < pass.n_seqs(); ++b) {
    const StateMemory& cache = states[static_cast<size_t>(b)][0];
    seqs[b] = {.blocks = cache.blocks, .n_past = pass.n_past[static_cast<size_t>(b)]};
    const int64_t past = seqs[b].n_past - seq_start[b];
    for (int64_t n = seq_start[b]; n < seq_start[b + 1]; ++n) {
      const float* from = rows.row<float>(n);
      std::byte* to = cache.row(past + n, row_bytes);
      if (cache_dtype_ == DType::bf16)
        for (int64_t i = 0; i < width; ++i) reinterpret_cast<bf16*>(to)[i] = to_bf16(from[i]);
      else std::memcpy(to, from, static_cast<size_t>(row_bytes));
    }
  }
  return seqs;
}

// A training pass: the rows themselves are the cache.
const ops::MlaSequence* MlaMixer::on_tape(const Pass& pass, ConstTensor rows, Workspace& scratch) const {
  const ConstTensor& start = pass.attention_bounds();
  ops::MlaSequence* seqs = scratch.take<ops::MlaSequence>(start[0] - 1);
  for (int64_t b = 0; b + 1 < start[0]; ++b) {
    const int64_t first = start.as<int32_t>()[b], n = start.as<int32_t>()[b + 1] - first;
    const std::byte** blocks = scratch.take<const std::byte*>(ops::mla_blocks(n));
    ops::mla_dense_blocks(rows.row<float>(first), n, rows[1] * static_cast<int64_t>(sizeof(float)), blocks);
    seqs[b] = {.blocks = blocks, .n_past = 0};
  }
  return seqs;
}

}  // namespace linnet::model
