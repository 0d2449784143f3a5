// Multi-head latent attention: the definition, expanded form, plain loops in double.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/mla/mla.h"

namespace linnet::ops {
namespace {

double element(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::bf16: return to_f32(static_cast<const bf16*>(data)[i]);
    case DType::f16: return to_f32(static_cast<const f16*>(data)[i]);
    default: return static_cast<const float*>(data)[i];
  }
}

// Keys [n, Dn + Dr] and values [n, Dv] of one head of one sequence.
struct Expanded {
  std::vector<double> k, v;
};

// Element i of cache row j.
double cached(const MlaArgs& a, const MlaSequence& seq, int64_t j, int64_t i) {
  return element(seq.blocks[j / kMlaBlock], a.cache_dtype, j % kMlaBlock * (a.R + a.Dr) + i);
}

Expanded expand(const MlaArgs& a, const MlaSequence& seq, int64_t n, int64_t h) {
  const int64_t Dk = a.Dn + a.Dr;
  Expanded x{std::vector<double>(static_cast<size_t>(n * Dk)), std::vector<double>(static_cast<size_t>(n * a.Dv))};
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t d = 0; d < a.Dn + a.Dv; ++d) {
      double sum = 0;
      for (int64_t r = 0; r < a.R; ++r)
        sum += element(a.kv_b.data, a.kv_b.dtype, (h * (a.Dn + a.Dv) + d) * a.R + r) * cached(a, seq, j, r);
      if (d < a.Dn) x.k[static_cast<size_t>(j * Dk + d)] = sum;
      else x.v[static_cast<size_t>(j * a.Dv + d - a.Dn)] = sum;
    }
    for (int64_t d = 0; d < a.Dr; ++d) x.k[static_cast<size_t>(j * Dk + a.Dn + d)] = cached(a, seq, j, a.R + d);
  }
  return x;
}

void attend(const MlaArgs& a, const Expanded& x, const float* q, int64_t n, float* out) {
  const int64_t Dk = a.Dn + a.Dr;
  std::vector<double> p(static_cast<size_t>(n));
  double max = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    double score = 0;
    for (int64_t d = 0; d < Dk; ++d) score += q[d] * x.k[static_cast<size_t>(j * Dk + d)];
    p[static_cast<size_t>(j)] = a.scale * score;
    max = std::max(max, a.scale * score);
  }
  for (double& value : p) value = std::exp(value - max), sum += value;
  for (int64_t c = 0; c < a.Dv; ++c) {
    double y = 0;
    for (int64_t j = 0; j < n; ++j) y += p[static_cast<size_t>(j)] * x.v[static_cast<size_t>(j * a.Dv + c)];
    out[c] = static_cast<float>(y / sum);
  }
}

}  // namespace

void mla_ref(const MlaArgs& a) {
  const int64_t H = a.q[1], Dk = a.Dn + a.Dr;
  const int32_t* start = a.seq_start.as<int32_t>();
  for (int64_t b = 0; b + 1 < a.seq_start[0]; ++b) {
    const int64_t n_new = start[b + 1] - start[b];
    if (n_new == 0) continue;
    for (int64_t h = 0; h < H; ++h) {
      const Expanded x = expand(a, a.seqs[b], a.seqs[b].n_past + n_new, h);
      for (int64_t i = 0; i < n_new; ++i)
        attend(a, x, a.q.row<float>(start[b] + i) + h * Dk, a.seqs[b].n_past + i + 1,
               a.out.row<float>(start[b] + i) + h * a.Dv);
    }
  }
}

}  // namespace linnet::ops
