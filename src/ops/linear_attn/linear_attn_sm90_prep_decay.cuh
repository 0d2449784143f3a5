// kda_sm90 prep: from gates to the decays that the tree over a warp's 16 tokens joins its nodes with.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_prep_rows.cuh"

namespace linnet::ops::sm90::prep {

struct Gate {
  float bias[4];  // of the lane's channels; log2(e) dt_bias, times -rate for lower_bound
  float scale;    // of z, likewise
  float rate;     // -exp(a_log) | lower_bound log2(e)
};

template <KdaGate kGate>
__device__ __forceinline__ Gate make_gate(const float4& dt_bias, float a_log, float lower_bound) {
  const float rate = exp2_fast(a_log * kLog2e);
  Gate g;
  g.scale = kGate == KdaGate::softplus ? kLog2e : -rate * kLog2e;
  g.rate = kGate == KdaGate::softplus ? -rate : lower_bound * kLog2e;
  g.bias[0] = dt_bias.x * g.scale, g.bias[1] = dt_bias.y * g.scale;
  g.bias[2] = dt_bias.z * g.scale, g.bias[3] = dt_bias.w * g.scale;
  return g;
}

// Log2 decay. log2(1 + 2^x) = max(x, 0) + y P(y), y = 2^-|x|: P is the polynomial of degree 4 with the least relative error, 5.7e-5, so
// that slow channels keep their rates; a decay factor over any number of tokens is then off by at most 5.7e-5 / e.
template <KdaGate kGate>
__device__ __forceinline__ float log2_decay(const Gate& g, float z, int channel) {
  const float x = fmaf(z, g.scale, g.bias[channel]);
  if constexpr (kGate == KdaGate::softplus) {
    const float y = exp2_fast(-fabsf(x));
    float p = fmaf(y, 0.059651548088f, -0.227119450869f);
    p = fmaf(y, p, 0.441898831747f);
    p = fmaf(y, p, -0.716987415121f);
    p = fmaf(y, p, 1.442613208231f);
    return g.rate * fmaf(y, p, fmaxf(x, 0.f));
  } else {
    return g.rate * reciprocal_fast(1.f + exp2_fast(x));
  }
}

// Decays of four tokens: f16 over nodes of one and two
struct Decays {
  Half4 of1[4], of2[2];
};

// The log2 decays of a lane's channels of tokens, where they need not be computed from raw rows: read with their chunk (log_decay), or the
// same for all channels, that of token l in lane l (gates of a head).
template <KdaGate kGate>
struct GivenDecays;
template <>
struct GivenDecays<KdaGate::log_decay> {
  const float* rows;  // the lane's channels of the warp's first token
  int64_t stride;
  int left;  // tokens
  float4 z[8];
  // Eight tokens' loads are under way together; the barrier keeps the compiler from asking for all sixteen, which would spill.
  __device__ __forceinline__ void prepare(int quad) {
    if (quad & 1) return;
    if (quad > 0) __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int token = 4 * quad + i;
      z[i] = float4{};
      if (token < left) z[i] = load_constant_floats(rows + token * stride);
    }
  }
  __device__ __forceinline__ float4 of(int token) const {
    const float4& x = z[token & 7];
    return make_float4(x.x * kLog2e, x.y * kLog2e, x.z * kLog2e, x.w * kLog2e);
  }
};
template <>
struct GivenDecays<KdaGate::head_softplus> {
  float mine;
  __device__ __forceinline__ void prepare(int) {}
  __device__ __forceinline__ float4 of(int token) const {
    const float x = __shfl_sync(~0u, mine, token);
    return make_float4(x, x, x, x);
  }
};

// Of a quad of tokens, e their decays.
__device__ __forceinline__ void join_decays(Decays& d, float (&total)[4], float (&e)[4][4]) {
#pragma unroll
  for (int c = 0; c < 4; c++) {
    e[0][c] *= e[1][c];
    e[2][c] *= e[3][c];
    total[c] = e[0][c] * e[2][c];
  }
  d.of2[0] = pack_half4(e[0][0], e[0][1], e[0][2], e[0][3]);
  d.of2[1] = pack_half4(e[2][0], e[2][1], e[2][2], e[2][3]);
}

template <KdaGate kGate>
__device__ __forceinline__ void make_decays(Decays& d, float (&total)[4], GivenDecays<kGate>& given, int quad,
                                            float (&sum_log2)[4]) {
  float e[4][4];
  given.prepare(quad);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float4 given_log2 = given.of(4 * quad + i);
    const float log2[4] = {given_log2.x, given_log2.y, given_log2.z, given_log2.w};
#pragma unroll
    for (int c = 0; c < 4; c++) {
      sum_log2[c] += log2[c];
      e[i][c] = exp2_fast(log2[c]);
    }
    d.of1[i] = pack_half4(e[i][0], e[i][1], e[i][2], e[i][3]);
  }
  join_decays(d, total, e);
}

// z_rows: the lane's channels of the first of the four rows. Adds to sum_log2 of each channel.
template <KdaGate kGate, class T>
__device__ __forceinline__ void make_decays(Decays& d, float (&total)[4], const Gate& g, uint32_t z_rows,
                                            float (&sum_log2)[4]) {
  float e[4][4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint2 raw = load_shared(z_rows + row_offset(i));
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      const float2 z = unpack<T>(pair ? raw.y : raw.x);
      const float l0 = log2_decay<kGate>(g, z.x, 2 * pair), l1 = log2_decay<kGate>(g, z.y, 2 * pair + 1);
      sum_log2[2 * pair] += l0;
      sum_log2[2 * pair + 1] += l1;
      e[i][2 * pair] = exp2_fast(l0);
      e[i][2 * pair + 1] = exp2_fast(l1);
    }
    d.of1[i] = pack_half4(e[i][0], e[i][1], e[i][2], e[i][3]);
  }
  join_decays(d, total, e);
}

}  // namespace linnet::ops::sm90::prep
