// kda_sm90 prep: from raw gates to the decays that the tree over a warp's 16 tokens joins its nodes with.
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

// z_rows: the lane's channels of the first of the four rows. Adds to sum_log2 of each channel.
template <KdaGate kGate>
__device__ __forceinline__ void make_decays(Decays& d, float (&total)[4], const Gate& g, uint32_t z_rows,
                                            float (&sum_log2)[4]) {
  float e[4][4];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint2 raw = load_shared(z_rows + row_offset(i));
#pragma unroll
    for (int pair = 0; pair < 2; pair++) {
      const float2 z = unpack_bf16(pair ? raw.y : raw.x);
      const float l0 = log2_decay<kGate>(g, z.x, 2 * pair), l1 = log2_decay<kGate>(g, z.y, 2 * pair + 1);
      sum_log2[2 * pair] += l0;
      sum_log2[2 * pair + 1] += l1;
      e[i][2 * pair] = exp2_fast(l0);
      e[i][2 * pair + 1] = exp2_fast(l1);
    }
    d.of1[i] = pack_half4(e[i][0], e[i][1], e[i][2], e[i][3]);
  }
#pragma unroll
  for (int c = 0; c < 4; c++) {
    e[0][c] *= e[1][c];
    e[2][c] *= e[3][c];
    total[c] = e[0][c] * e[2][c];
  }
  d.of2[0] = pack_half4(e[0][0], e[0][1], e[0][2], e[0][3]);
  d.of2[1] = pack_half4(e[2][0], e[2][1], e[2][2], e[2][3]);
}

}  // namespace linnet::ops::sm90::prep
