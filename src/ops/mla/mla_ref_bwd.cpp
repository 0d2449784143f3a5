// Gradient of latent attention: the definition, expanded form, plain loops in double.
//
// Per head, i a query and j <= i a key:
//   s_ij = scale q_i . k_j    p_ij = exp(s_ij - max_i) / sum_j exp(s_ij - max_i)    out_i = sum_j p_ij v_j
//   dv_j += p_ij dout_i       dp_ij = dout_i . v_j    ds_ij = p_ij (dp_ij - sum_l p_il dp_il)
//   dq_i += scale ds_ij k_j   dk_j += scale ds_ij q_i
// and through k_j = (W_uk c_j, r_j), v_j = W_uv c_j, with w the head's rows of kv_b over both and g_j = (dk_j[0, Dn), dv_j):
//   dc_j = sum_h w^T g_j      dr_j = sum_h dk_j[Dn, Dn + Dr)      dw += g_j c_j^T
// The sum over l is out_i . dout_i; `out` is not read here.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/mla/mla_bwd.h"

namespace linnet::ops {
namespace {

using Doubles = std::vector<double>;

double weight(const ConstTensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::bf16: return to_f32(t.as<bf16>()[i]);
    case DType::f16: return to_f32(t.as<f16>()[i]);
    default: return t.as<float>()[i];
  }
}

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void add(double factor, const double* x, int64_t n, double* to) {
  for (int64_t i = 0; i < n; ++i) to[i] += factor * x[i];
}

// One head of one sequence of n tokens; all matrices have n rows.
struct Head {
  int64_t n, Dk, Dv;
  Doubles q, k, v, dout, dq, dk, dv;
  double max_logit = -std::numeric_limits<double>::infinity();
};

Doubles columns(const ConstTensor& t, int64_t token, int64_t n, int64_t from, int64_t width) {
  Doubles m;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t c = 0; c < width; ++c) m.push_back(t.row<float>(token + i)[from + c]);
  return m;
}

void attention_bwd(Head& x, double scale) {
  Doubles p(static_cast<size_t>(x.n)), dp(p);
  for (int64_t i = 0; i < x.n; ++i) {
    const double *q = &x.q[static_cast<size_t>(i * x.Dk)], *dout = &x.dout[static_cast<size_t>(i * x.Dv)];
    double max = -std::numeric_limits<double>::infinity(), sum = 0, mean = 0;
    for (int64_t j = 0; j <= i; ++j) {
      const size_t at = static_cast<size_t>(j);
      p[at] = scale * dot(q, &x.k[static_cast<size_t>(j * x.Dk)], x.Dk);
      dp[at] = dot(dout, &x.v[static_cast<size_t>(j * x.Dv)], x.Dv);
      max = std::max(max, p[at]);
    }
    x.max_logit = std::max(x.max_logit, max);
    for (size_t j = 0; j <= static_cast<size_t>(i); ++j) p[j] = std::exp(p[j] - max), sum += p[j];
    for (size_t j = 0; j <= static_cast<size_t>(i); ++j) p[j] /= sum, mean += p[j] * dp[j];
    for (int64_t j = 0; j <= i; ++j) {
      const size_t at = static_cast<size_t>(j);
      const double ds = scale * p[at] * (dp[at] - mean);
      add(p[at], dout, x.Dv, &x.dv[static_cast<size_t>(j * x.Dv)]);
      add(ds, &x.k[static_cast<size_t>(j * x.Dk)], x.Dk, &x.dq[static_cast<size_t>(i * x.Dk)]);
      add(ds, q, x.Dk, &x.dk[static_cast<size_t>(j * x.Dk)]);
    }
  }
}

Head expand(const MlaBwdArgs& a, const Doubles& latent, int64_t token, int64_t n, int64_t h) {
  const int64_t Dk = a.Dn + a.Dr, E = a.R + a.Dr;
  Head x{.n = n, .Dk = Dk, .Dv = a.Dv};
  x.q = columns(a.q, token, n, h * Dk, Dk), x.dout = columns(a.dout, token, n, h * a.Dv, a.Dv);
  x.k.resize(static_cast<size_t>(n * Dk)), x.v.resize(static_cast<size_t>(n * a.Dv));
  x.dq = x.dk = Doubles(x.k.size()), x.dv = Doubles(x.v.size());
  for (int64_t j = 0; j < n; ++j) {
    const double* c = &latent[static_cast<size_t>(j * E)];
    for (int64_t d = 0; d < a.Dn + a.Dv; ++d) {
      double sum = 0;
      for (int64_t r = 0; r < a.R; ++r) sum += weight(a.kv_b, (h * (a.Dn + a.Dv) + d) * a.R + r) * c[r];
      (d < a.Dn ? x.k[static_cast<size_t>(j * Dk + d)] : x.v[static_cast<size_t>(j * a.Dv + d - a.Dn)]) = sum;
    }
    std::copy_n(c + a.R, a.Dr, x.k.data() + j * Dk + a.Dn);
  }
  return x;
}

// What a head's dk and dv add to the gradients of latents and weights.
void contract(const MlaBwdArgs& a, const Head& x, const Doubles& latent, int64_t h, Doubles& dlatent, Doubles& dkv_b) {
  const int64_t E = a.R + a.Dr;
  for (int64_t j = 0; j < x.n; ++j) {
    double* dc = &dlatent[static_cast<size_t>(j * E)];
    for (int64_t d = 0; d < a.Dn + a.Dv; ++d) {
      const double g =
          d < a.Dn ? x.dk[static_cast<size_t>(j * x.Dk + d)] : x.dv[static_cast<size_t>(j * a.Dv + d - a.Dn)];
      const int64_t row = h * (a.Dn + a.Dv) + d;
      for (int64_t r = 0; r < a.R; ++r) dc[r] += g * weight(a.kv_b, row * a.R + r);
      add(g, &latent[static_cast<size_t>(j * E)], a.R, &dkv_b[static_cast<size_t>(row * a.R)]);
    }
    add(1, x.dk.data() + j * x.Dk + a.Dn, a.Dr, dc + a.R);
  }
}

}  // namespace

void mla_ref_bwd(const MlaBwdArgs& a) {
  const int64_t H = a.q[1], Dk = a.Dn + a.Dr, E = a.R + a.Dr;
  const int32_t* start = a.seq_start.as<int32_t>();
  Doubles dkv_b(static_cast<size_t>(H * (a.Dn + a.Dv) * a.R));
  for (int64_t b = 0; b + 1 < a.seq_start[0]; ++b) {
    const int64_t token = start[b], n = start[b + 1] - token;
    if (n == 0) continue;
    const Doubles latent = columns(a.latent, token, n, 0, E);
    Doubles dlatent(latent.size());
    for (int64_t h = 0; h < H; ++h) {
      Head x = expand(a, latent, token, n, h);
      attention_bwd(x, a.scale);
      contract(a, x, latent, h, dlatent, dkv_b);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < Dk; ++d)
          a.dq.row<float>(token + i)[h * Dk + d] = static_cast<float>(x.dq[static_cast<size_t>(i * Dk + d)]);
      if (a.max_logit)
        a.max_logit.as<float>()[h] = std::max(a.max_logit.as<float>()[h], static_cast<float>(x.max_logit));
    }
    std::copy(dlatent.begin(), dlatent.end(), a.dlatent.row<float>(token));
  }
  for (size_t i = 0; i < dkv_b.size(); ++i)
    a.dkv_b.as<float>()[i] = static_cast<float>(a.dkv_b.as<float>()[i] + dkv_b[i]);
}

}  // namespace linnet::ops
