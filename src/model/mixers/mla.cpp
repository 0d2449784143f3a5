#include "model/mixers/mla.h"

#include <cmath>

#include "ops/gemm/gemm.h"
#include "ops/mla/mla.h"
#include "ops/norm/norm.h"

namespace linnet::model {

MlaMixer::MlaMixer(const ModelConfig& config, DType cache_dtype)
    : mla_(config.mla),
      hidden_(config.hidden),
      latent_eps_(config.parity.latent_norm_eps > 0 ? config.parity.latent_norm_eps : config.norm_eps),
      cache_dtype_(cache_dtype),
      latent_norm_({mla_.latent_rank}) {}

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

void MlaMixer::forward(const Pass& pass, std::span<const LayerState> states, ConstTensor x, Tensor y,
                       const Exec& exec) const {
  const int64_t N = x[0], B = pass.n_seqs(), H = mla_.heads, R = mla_.latent_rank;
  Workspace& scratch = exec.workspace;
  const Workspace::Scope scope(scratch);

  const Tensor q = scratch.tensor<float>({N, H * mla_.query_dim()});
  const Tensor row = scratch.tensor<float>({N, mla_.cache_dim()});
  const ops::GemmProblem from_x[] = {{.x = x, .w = q_proj_, .y = q}, {.x = x, .w = kv_a_, .y = row}};
  apply("mla projections", ops::plan_gemm, {from_x}, exec);

  // The latent is normed before it is cached; the shared key part is neither normed nor rotated.
  const Tensor latent = row.columns(0, R);
  apply("mla projections", ops::plan_rms_norm, {.x = latent, .weight = latent_norm_, .y = latent, .eps = latent_eps_},
        exec);
  write_cache(pass, states, row);

  ops::MlaSequence* seqs = scratch.take<ops::MlaSequence>(B);
  for (int64_t b = 0; b < B; ++b)
    seqs[b] = {.cache = states[static_cast<size_t>(b)][0], .n_past = pass.n_past[static_cast<size_t>(b)]};
  const Tensor out = scratch.tensor<float>({N, H, mla_.value_dim});
  apply("mla attention", ops::plan_mla,
        {.q = q.reshaped({N, H, mla_.query_dim()}),
         .kv_b = kv_b_,
         .seq_start = pass.seq_start,
         .seqs = seqs,
         .cache_dtype = cache_dtype_,
         .R = R,
         .Dn = mla_.key_dim,
         .Dr = mla_.shared_key_dim,
         .Dv = mla_.value_dim,
         .out = out,
         .scale = 1 / std::sqrt(static_cast<float>(mla_.query_dim()))},
        exec);
  const ops::GemmProblem down[] = {{.x = out.reshaped({N, H * mla_.value_dim}), .w = o_proj_, .y = y}};
  apply("mla output", ops::plan_gemm, {down}, exec);
}

void MlaMixer::write_cache(const Pass& pass, std::span<const LayerState> states, ConstTensor rows) const {
  const int64_t width = mla_.cache_dim();
  const int32_t* seq_start = pass.seq_start.as<int32_t>();
  for (int64_t b = 0; b < pass.n_seqs(); ++b) {
    std::byte* cache = states[static_cast<size_t>(b)][0];
    const int64_t past = pass.n_past[static_cast<size_t>(b)] - seq_start[b];
    for (int64_t n = seq_start[b]; n < seq_start[b + 1]; ++n) {
      const float* from = rows.row<float>(n);
      if (cache_dtype_ == DType::bf16) {
        bf16* to = reinterpret_cast<bf16*>(cache) + (past + n) * width;
        for (int64_t i = 0; i < width; ++i) to[i] = to_bf16(from[i]);
      } else {
        std::memcpy(reinterpret_cast<float*>(cache) + (past + n) * width, from,
                    static_cast<size_t>(width) * sizeof(float));
      }
    }
  }
}

}  // namespace linnet::model
