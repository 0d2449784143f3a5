// The portable-vector variant of the recurrent core: its entry points, and the view of one head that its parts share.
#pragma once

#include "ops/linear_attn/linear_attn.h"

namespace linnet::ops {

void linear_attn_simd(const LinearAttnArgs& args, const Exec& exec) noexcept;
size_t linear_attn_simd_workspace_bytes(const LinearAttnArgs& args, int n_threads);

// Tokens [first, first + n_tokens) of one sequence, seen by one value head. Strides are between tokens.
struct LinearAttnHead {
  const float *q, *k, *v;  // [n_tokens, Dk], [n_tokens, Dk], [n_tokens, Dv]
  const float*
      log_decay;      // [n_tokens, Dk] per_channel, [n_tokens] otherwise (per_head: stride 0), null when Decay::none
  const float* beta;  // [n_tokens], null = 1
  float* out;         // [n_tokens, Dv]
  float* state;       // [Dk, Dv]
  int64_t q_stride, k_stride, v_stride, decay_stride, beta_stride, out_stride;
  int64_t n_tokens, Dk, Dv;
  int64_t lead;  // tokens of the first chunk that came before
  float scale;
  bool decay_per_channel, delta;
};

// Head h of sequence b, all its tokens. The gradient has no output and brings its own state.
inline LinearAttnHead head_of(const LinearAttnArgs& a, int64_t b, int64_t h) {
  const int32_t* start = a.seq_start.as<int32_t>();
  const int64_t n = start[b], Dk = a.k[2], Dv = a.v[2], key_head = h / (a.v[1] / a.k[1]);
  LinearAttnHead x{};
  x.q = a.q.row<float>(n) + key_head * Dk, x.q_stride = a.q.row_stride;
  x.k = a.k.row<float>(n) + key_head * Dk, x.k_stride = a.k.row_stride;
  x.v = a.v.row<float>(n) + h * Dv, x.v_stride = a.v.row_stride;
  x.decay_per_channel = a.decay == Decay::per_channel;
  if (a.decay == Decay::per_head) x.log_decay = a.log_decay.as<float>() + h;
  if (a.decay == Decay::per_token || x.decay_per_channel) {
    x.log_decay = a.log_decay.row<float>(n) + (x.decay_per_channel ? h * Dk : h);
    x.decay_stride = a.log_decay.row_stride;
  }
  if (a.beta) x.beta = a.beta.row<float>(n) + h, x.beta_stride = a.beta.row_stride;
  if (a.out) x.out = a.out.row<float>(n) + h * Dv, x.out_stride = a.out.row_stride;
  if (a.state) x.state = a.state[b] + h * Dk * Dv;
  x.n_tokens = start[b + 1] - n, x.Dk = Dk, x.Dv = Dv, x.scale = a.scale, x.delta = a.delta;
  if (a.form == LinearAttnForm::chunks && a.n_past) x.lead = a.n_past[b] % kLinearAttnChunk;
  return x;
}

// The same head from token `first` on, `count` tokens.
inline LinearAttnHead tokens_of(LinearAttnHead x, int64_t first, int64_t count) {
  x.q += first * x.q_stride, x.k += first * x.k_stride, x.v += first * x.v_stride;
  if (x.out) x.out += first * x.out_stride;
  if (x.log_decay) x.log_decay += first * x.decay_stride;
  if (x.beta) x.beta += first * x.beta_stride;
  x.n_tokens = count;
  return x;
}

// A sequence is cut into chunks; what is left after the last full one is stepped when it is short. So a call that
// starts at a chunk boundary of a longer one does exactly the work that the longer one does from there.
inline int64_t stepped_tokens(const LinearAttnArgs& a, int64_t b) {
  const int32_t* start = a.seq_start.as<int32_t>();
  const int64_t n_tokens = start[b + 1] - start[b];
  if (a.form != LinearAttnForm::by_length) return a.form == LinearAttnForm::steps ? n_tokens : 0;
  const int64_t rest = n_tokens % kLinearAttnChunk;
  return rest <= kLinearAttnStepTokens ? rest : 0;
}

}  // namespace linnet::ops
