// The definition of the recurrent core's gradient: token by token, backwards, in double.
//
// Per value head and token, with S_{t-1} the state before it, a its decay (per row), S' = diag(a) S_{t-1},
// e = v - [delta] S'^T k, u = beta e, S_t = S' + k u^T, out = scale S_t^T q; and dS = dLoss/dS_t, all later tokens included:
//   dS   += scale q dout^T               out reads S_t
//   dq    = scale S_t dout
//   du    = dS^T k                       S_t = S' + k u^T
//   dbeta = du . e,  dv = beta du        u = beta e; de = beta du
//   dk    = dS u - [delta] S' dv         k writes u, and reads S' in e
//   dS'   = dS - [delta] k dv^T
//   dlog_decay_c = sum_j dS'_cj S'_cj    d(a S) / d(log a) = a S = S'; summed over what shares the number
//   dS_{t-1} = diag(a) dS'
#include <cmath>
#include <vector>

#include "ops/linear_attn/linear_attn_bwd.h"

namespace linnet::ops {
namespace {

// exp(log_decay) of token n, value head h, key channel d.
double decay_at(const LinearAttnBwdArgs& a, int64_t n, int64_t h, int64_t d) {
  switch (a.decay) {
    case Decay::none: return 1;
    case Decay::per_head: return std::exp(double{a.log_decay.as<float>()[h]});
    case Decay::per_token: return std::exp(double{a.log_decay.row<float>(n)[h]});
    case Decay::per_channel: return std::exp(double{a.log_decay.row<float>(n)[h * a.k[2] + d]});
  }
  return 0;
}

// One token of one head.
struct Token {
  const float *q, *k, *v, *dout;
  double beta;
  std::vector<double> decay;  // [Dk]

  Token(const LinearAttnBwdArgs& a, int64_t n, int64_t h) : decay(static_cast<size_t>(a.k[2])) {
    const int64_t Dk = a.k[2], Dv = a.v[2], key_head = h / (a.v[1] / a.k[1]);
    q = a.q.row<float>(n) + key_head * Dk;
    k = a.k.row<float>(n) + key_head * Dk;
    v = a.v.row<float>(n) + h * Dv;
    dout = a.dout.row<float>(n) + h * Dv;
    beta = a.beta ? double{a.beta.row<float>(n)[h]} : 1;
    for (int64_t d = 0; d < Dk; ++d) decay[d] = decay_at(a, n, h, d);
  }
};

// S' = diag(decay) s and the error e.
void decay_and_error(const Token& t, const std::vector<double>& s, bool delta, std::vector<double>& decayed,
                     std::vector<double>& e) {
  const int64_t Dk = static_cast<int64_t>(t.decay.size()), Dv = static_cast<int64_t>(e.size());
  for (int64_t j = 0; j < Dv; ++j) e[j] = t.v[j];
  for (int64_t d = 0; d < Dk; ++d)
    for (int64_t j = 0; j < Dv; ++j) {
      decayed[d * Dv + j] = t.decay[d] * s[d * Dv + j];
      if (delta) e[j] -= decayed[d * Dv + j] * t.k[d];
    }
}

// What a token's gradients are written to: rows of double, added to.
struct TokenGradients {
  double *dq, *dk, *dv, *dlog_decay, *dbeta;  // [Dk], [Dk], [Dv], [Dk], [1]
};

// ds is dLoss/dS_t without the token's own output on entry, dLoss/dS_{t-1} on return; `before` is S_{t-1}.
void token_bwd(const LinearAttnBwdArgs& a, const Token& t, const std::vector<double>& before, std::vector<double>& ds,
               const TokenGradients& to) {
  const int64_t Dk = a.k[2], Dv = a.v[2];
  std::vector<double> decayed(before.size()), e(static_cast<size_t>(Dv)), du(static_cast<size_t>(Dv));
  decay_and_error(t, before, a.delta, decayed, e);
  for (int64_t d = 0; d < Dk; ++d)
    for (int64_t j = 0; j < Dv; ++j) {
      const double dout = a.scale * double{t.dout[j]};
      to.dq[d] += (decayed[d * Dv + j] + t.k[d] * t.beta * e[j]) * dout;
      ds[d * Dv + j] += t.q[d] * dout;
      du[j] += ds[d * Dv + j] * t.k[d];
    }
  for (int64_t j = 0; j < Dv; ++j) {
    *to.dbeta += du[j] * e[j];
    to.dv[j] += t.beta * du[j];
  }
  for (int64_t d = 0; d < Dk; ++d)
    for (int64_t j = 0; j < Dv; ++j) {
      const double dv = t.beta * du[j], s = decayed[d * Dv + j];
      double& g = ds[d * Dv + j];
      to.dk[d] += g * t.beta * e[j] - (a.delta ? s * dv : 0);
      if (a.delta) g -= t.k[d] * dv;
      to.dlog_decay[d] += g * s;
      g *= t.decay[d];
    }
}

// Writes a row of double as f32.
void write(const std::vector<double>& from, int64_t at, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[at + i]);
}

// Value head h of sequence b, tokens [first, last). dq and dk [tokens, Dk] are added to; dlog_decay_head is the gradient of
// a decay shared by the head's tokens, added to.
void head_bwd(const LinearAttnBwdArgs& a, int64_t b, int64_t h, std::vector<double>& dq, std::vector<double>& dk,
              double& dlog_decay_head) {
  const int64_t Dk = a.k[2], Dv = a.v[2];
  const int64_t first = a.seq_start.as<int32_t>()[b], last = a.seq_start.as<int32_t>()[b + 1];
  std::vector<double> s(static_cast<size_t>(Dk * Dv)), ds(s.size()), decayed(s.size()), e(static_cast<size_t>(Dv));
  if (a.state && a.state[b]) s.assign(a.state[b] + h * Dk * Dv, a.state[b] + (h + 1) * Dk * Dv);
  if (a.dstate && a.dstate[b]) ds.assign(a.dstate[b] + h * Dk * Dv, a.dstate[b] + (h + 1) * Dk * Dv);
  std::vector<std::vector<double>> before;
  for (int64_t n = first; n < last; ++n) {
    before.push_back(s);
    const Token t(a, n, h);
    decay_and_error(t, before.back(), a.delta, decayed, e);
    for (int64_t d = 0; d < Dk; ++d)
      for (int64_t j = 0; j < Dv; ++j) s[d * Dv + j] = decayed[d * Dv + j] + t.k[d] * t.beta * e[j];
  }
  for (int64_t n = last - 1; n >= first; --n) {
    std::vector<double> dv(static_cast<size_t>(Dv)), dlog_decay(static_cast<size_t>(Dk));
    double dbeta = 0;
    token_bwd(a, Token(a, n, h), before[n - first], ds,
              {dq.data() + (n - first) * Dk, dk.data() + (n - first) * Dk, dv.data(), dlog_decay.data(), &dbeta});
    write(dv, 0, Dv, a.dv.row<float>(n) + h * Dv);
    if (a.dbeta) a.dbeta.row<float>(n)[h] = static_cast<float>(dbeta);
    double sum = 0;
    for (double x : dlog_decay) sum += x;
    dlog_decay_head += sum;
    if (a.dlog_decay && a.decay == Decay::per_token) a.dlog_decay.row<float>(n)[h] = static_cast<float>(sum);
    if (a.dlog_decay && a.decay == Decay::per_channel) write(dlog_decay, 0, Dk, a.dlog_decay.row<float>(n) + h * Dk);
  }
  if (last > first && a.dstate && a.dstate[b]) write(ds, 0, Dk * Dv, a.dstate[b] + h * Dk * Dv);
}

}  // namespace

void linear_attn_ref_bwd(const LinearAttnBwdArgs& a) {
  const int64_t B = a.seq_start[0] - 1, H = a.v[1], Hk = a.k[1], Dk = a.k[2], group = H / Hk;
  const int32_t* start = a.seq_start.as<int32_t>();
  std::vector<double> dlog_decay(static_cast<size_t>(H));
  for (int64_t b = 0; b < B; ++b)
    for (int64_t key_head = 0; key_head < Hk; ++key_head) {
      const int64_t T = start[b + 1] - start[b];
      std::vector<double> dq(static_cast<size_t>(T * Dk)), dk(dq.size());
      for (int64_t h = key_head * group; h < (key_head + 1) * group; ++h) head_bwd(a, b, h, dq, dk, dlog_decay[h]);
      for (int64_t t = 0; t < T; ++t) {
        write(dq, t * Dk, Dk, a.dq.row<float>(start[b] + t) + key_head * Dk);
        write(dk, t * Dk, Dk, a.dk.row<float>(start[b] + t) + key_head * Dk);
      }
    }
  if (a.dlog_decay && a.decay == Decay::per_head) write(dlog_decay, 0, H, a.dlog_decay.as<float>());
}

}  // namespace linnet::ops
