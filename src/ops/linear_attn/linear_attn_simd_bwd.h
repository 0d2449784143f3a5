// The portable-vector variant of the recurrent core's gradient: its entry points, and the view of one head.
#pragma once

#include "ops/linear_attn/linear_attn_bwd.h"
#include "ops/linear_attn/linear_attn_simd.h"

namespace linnet::ops {

void linear_attn_simd_bwd(const LinearAttnBwdArgs& args, const Exec& exec) noexcept;
size_t linear_attn_simd_bwd_workspace_bytes(const LinearAttnBwdArgs& args, int n_threads);

// Tokens [first, first + n_tokens) of one sequence, seen by one value head. `in` has no state and no output.
struct LinearAttnBwdHead {
  LinearAttnHead in;
  const float* dout;  // [n_tokens, Dv]
  float *dq, *dk;     // [n_tokens, Dk]
  float* dv;          // [n_tokens, Dv]
  float* dlog_decay;  // [n_tokens, Dk] per_channel, [n_tokens] per_token, null otherwise or when not wanted
  float* dbeta;       // [n_tokens], or null
  int64_t dout_stride, dq_stride, dk_stride, dv_stride, dlog_decay_stride, dbeta_stride;
  bool add_keys;  // dq and dk are added to: another value head of the same key head has written them
};

// Value head h of sequence b, all its tokens.
inline LinearAttnBwdHead head_of(const LinearAttnBwdArgs& a, int64_t b, int64_t h) {
  const int64_t Dk = a.k[2], Dv = a.v[2], group = a.v[1] / a.k[1], key_head = h / group;
  const int64_t n = a.seq_start.as<int32_t>()[b];
  LinearAttnBwdHead x{};
  x.in = head_of(LinearAttnArgs{.q = a.q,
                                .k = a.k,
                                .v = a.v,
                                .log_decay = a.log_decay,
                                .beta = a.beta,
                                .seq_start = a.seq_start,
                                .scale = a.scale,
                                .decay = a.decay,
                                .delta = a.delta},
                 b, h);
  x.dout = a.dout.row<float>(n) + h * Dv, x.dout_stride = a.dout.row_stride;
  x.dq = a.dq.row<float>(n) + key_head * Dk, x.dq_stride = a.dq.row_stride;
  x.dk = a.dk.row<float>(n) + key_head * Dk, x.dk_stride = a.dk.row_stride;
  x.dv = a.dv.row<float>(n) + h * Dv, x.dv_stride = a.dv.row_stride;
  if (a.dlog_decay && a.decay >= Decay::per_token) {
    x.dlog_decay = a.dlog_decay.row<float>(n) + (a.decay == Decay::per_channel ? h * Dk : h);
    x.dlog_decay_stride = a.dlog_decay.row_stride;
  }
  if (a.dbeta) x.dbeta = a.dbeta.row<float>(n) + h, x.dbeta_stride = a.dbeta.row_stride;
  x.add_keys = h % group != 0;
  return x;
}

// The same head from token `first` on, `count` tokens.
inline LinearAttnBwdHead tokens_of(LinearAttnBwdHead x, int64_t first, int64_t count) {
  x.in = tokens_of(x.in, first, count);
  x.dout += first * x.dout_stride, x.dv += first * x.dv_stride;
  x.dq += first * x.dq_stride, x.dk += first * x.dk_stride;
  if (x.dlog_decay) x.dlog_decay += first * x.dlog_decay_stride;
  if (x.dbeta) x.dbeta += first * x.dbeta_stride;
  return x;
}

}  // namespace linnet::ops
