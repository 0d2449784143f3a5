// The definition of the recurrent core: token by token, in double, for every setting of decay and delta.
#include <cmath>
#include <vector>

#include "ops/linear_attn/linear_attn.h"

namespace linnet::ops {
namespace {

// exp(log_decay) of token n, value head h, key channel d.
double decay_at(const LinearAttnArgs& a, int64_t n, int64_t h, int64_t d) {
  switch (a.decay) {
    case Decay::none: return 1;
    case Decay::per_head: return std::exp(double{a.log_decay.as<float>()[h]});
    case Decay::per_token: return std::exp(double{a.log_decay.row<float>(n)[h]});
    case Decay::per_channel: return std::exp(double{a.log_decay.row<float>(n)[h * a.k[2] + d]});
  }
  return 0;
}

// One token of one head: s [Dk, Dv] is S_{t-1} on entry and S_t on return.
void token_ref(const LinearAttnArgs& a, int64_t n, int64_t h, std::vector<double>& s) {
  const int64_t Dk = a.k[2], Dv = a.v[2], key_head = h / (a.v[1] / a.k[1]);
  const float* q = a.q.row<float>(n) + key_head * Dk;
  const float* k = a.k.row<float>(n) + key_head * Dk;
  const float* v = a.v.row<float>(n) + h * Dv;
  const double beta = a.beta ? a.beta.row<float>(n)[h] : 1;
  for (int64_t d = 0; d < Dk; ++d) {
    const double decay = decay_at(a, n, h, d);
    for (int64_t j = 0; j < Dv; ++j) s[d * Dv + j] *= decay;
  }
  for (int64_t j = 0; j < Dv; ++j) {
    double predicted = 0;
    for (int64_t d = 0; d < Dk; ++d) predicted += s[d * Dv + j] * k[d];
    const double u = beta * (v[j] - (a.delta ? predicted : 0));
    double out = 0;
    for (int64_t d = 0; d < Dk; ++d) {
      s[d * Dv + j] += k[d] * u;
      out += s[d * Dv + j] * q[d];
    }
    a.out.row<float>(n)[h * Dv + j] = static_cast<float>(a.scale * out);
  }
}

}  // namespace

void linear_attn_ref(const LinearAttnArgs& a) {
  const int64_t B = a.seq_start[0] - 1, H = a.v[1], Dk = a.k[2], Dv = a.v[2];
  const int32_t* start = a.seq_start.as<int32_t>();
  for (int64_t b = 0; b < B; ++b) {
    if (start[b] == start[b + 1]) continue;
    for (int64_t h = 0; h < H; ++h) {
      float* state = a.state[b] + h * Dk * Dv;
      std::vector<double> s(state, state + Dk * Dv);
      for (int64_t n = start[b]; n < start[b + 1]; ++n) token_ref(a, n, h, s);
      for (int64_t i = 0; i < Dk * Dv; ++i) state[i] = static_cast<float>(s[i]);
    }
  }
}

}  // namespace linnet::ops
