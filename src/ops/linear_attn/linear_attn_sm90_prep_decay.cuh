// kda_sm90 prep: from gates to the decays over runs of a block's tokens, as the tree over them takes them.
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

// Log2 decay. log2(1 + 2^x) = max(x, 0) + y P(y), y = 2^-|x|: P is the polynomial of degree 5 with the least relative error, 8.5e-6, so
// that slow channels keep their rates; a decay factor over any number of tokens is then off by at most 8.5e-6 / e.
template <KdaGate kGate>
__device__ __forceinline__ float log2_decay(const Gate& g, float z, int channel) {
  const float x = fmaf(z, g.scale, g.bias[channel]);
  if constexpr (kGate == KdaGate::softplus) {
    const float y = exp2_fast(-fabsf(x));
    float p = fmaf(y, -0.0344359790053f, 0.146033088465f);
    p = fmaf(y, p, -0.30303640533f);
    p = fmaf(y, p, 0.469174154156f);
    p = fmaf(y, p, -0.720426180594f);
    p = fmaf(y, p, 1.44268292041f);
    return g.rate * fmaf(y, p, fmaxf(x, 0.f));
  } else {
    return g.rate * reciprocal_fast(1.f + exp2_fast(x));
  }
}

// Rows of decays, f16, that a warp leaves in its places of shared memory, in row i
//   of z   over tokens 0 to i: the block's prefixes       of k   over tokens i + 1 to 7: its suffixes; row 7: ones
//   of q   over token i, 1 to 6; in row 0 over 2 and 3, in row 7 over 4 and 5
//   spare  over tokens 4 to 6; over 1 to 3
// Rows of prefixes and suffixes from token 4 on, and others that tokens 4 to 7 read, have the halves of their panels exchanged: eight lanes, of
// tokens i and 4 + i, then hit all banks.
constexpr uint32_t kPrefixes = kRawZ * kTensorBytes, kSuffixes = kRawK * kTensorBytes, kOthers = kRawQ * kTensorBytes,
                   kSwap = 64;
__host__ __device__ constexpr uint32_t spare_row(int warp, int i) { return 3 * kTensorBytes + i * 1024 + warp * 128; }

// Where a token finds its factor of levels 1, 2 and 4, the prefix or the suffix in its node: bytes from the start of Smem over 16.
struct FactorPlaces {
  uint16_t of[kWarps][kBlock][4];
};
constexpr FactorPlaces factor_places() {
  FactorPlaces p = {};
  for (int warp = 0; warp < kWarps; warp++) {
    const uint32_t other = kOthers + warp * kTileBytes, suffix = kSuffixes + warp * kTileBytes, ones = suffix + 7 * 128;
    const uint32_t of[kBlock][3] = {{ones, other + 128, spare_row(warp, 1)},
                                    {other + 128, ones, other},
                                    {ones, other + 2 * 128, other + 3 * 128},
                                    {other + 3 * 128, other, ones + kSwap},
                                    {ones, other + 5 * 128 + kSwap, other + 4 * 128 + kSwap},
                                    {other + 5 * 128 + kSwap, ones, other + 7 * 128 + kSwap},
                                    {ones, other + 6 * 128 + kSwap, spare_row(warp, 0) + kSwap},
                                    {suffix + 6 * 128 + kSwap, suffix + 5 * 128 + kSwap, suffix + 3 * 128}};
    for (int token = 0; token < kBlock; token++)
      for (int level = 0; level < 3; level++) p.of[warp][token][level] = static_cast<uint16_t>(of[token][level] / 16);
  }
  return p;
}
__constant__ const FactorPlaces kFactorPlaces = factor_places();

// A lane's channels in channel view, f16.
struct Half4 {
  uint32_t lo, hi;
};
__device__ __forceinline__ Half4 operator*(const Half4& a, const Half4& b) {
  return {mul_half2(a.lo, b.lo), mul_half2(a.hi, b.hi)};
}
__device__ __forceinline__ Half4 pack_half4(const float (&x)[4]) {
  return {pack_half(x[0], x[1]), pack_half(x[2], x[3])};
}
__device__ __forceinline__ void store_half4(uint32_t address, const Half4& x) { store_shared(address, x.lo, x.hi); }
__device__ __forceinline__ Half4 load_half4(uint32_t address) {
  const uint2 x = load_shared(address);
  return {x.x, x.y};
}

// The decays of a quad of tokens and over its runs: first two tokens, last two, first three, all, last three.
struct Quad {
  float of1[4][4], first2[4], last2[4], first3[4], all[4], last3[4];
};
// log2_of(token, l): the log2 decays of the lane's channels. Adds to sum_log2 of each channel.
template <class Log2>
__device__ __forceinline__ void make_quad(Quad& x, float (&sum_log2)[4], Log2& log2_of, int first) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (i % 2 == 0) log2_of.prepare(first + i);
    float l[4];
    log2_of(first + i, l);
#pragma unroll
    for (int c = 0; c < 4; c++) {
      sum_log2[c] += l[c];
      x.of1[i][c] = exp2_fast(l[c]);
    }
  }
#pragma unroll
  for (int c = 0; c < 4; c++) {
    x.first2[c] = x.of1[0][c] * x.of1[1][c];
    x.last2[c] = x.of1[2][c] * x.of1[3][c];
    x.first3[c] = x.first2[c] * x.of1[2][c];
    x.all[c] = x.first2[c] * x.last2[c];
    x.last3[c] = x.of1[1][c] * x.last2[c];
  }
}

// All those rows. When it is called the places of q and k are free; it uses up the raw z.
template <class Log2>
__device__ __forceinline__ void make_factors(float (&sum_log2)[4], Log2& log2_of, const Smem& s, int warp, int lane) {
  const uint32_t even = channel_rows(s, warp, lane), odd = even ^ kSwap;
  const uint32_t spare = even + spare_row(warp, 0) - warp * kTileBytes;
  Quad x;
  make_quad(x, sum_log2, log2_of, 4);
  store_half4(odd + kOthers + 4 * 128, pack_half4(x.of1[0]));
  store_half4(odd + kOthers + 5 * 128, pack_half4(x.of1[1]));
  store_half4(odd + kOthers + 6 * 128, pack_half4(x.of1[2]));
  store_half4(odd + kOthers + 7 * 128, pack_half4(x.first2));
  store_half4(spare ^ kSwap, pack_half4(x.first3));
  store_half4(even + kSuffixes + 3 * 128, pack_half4(x.all));
  store_half4(odd + kSuffixes + 4 * 128, pack_half4(x.last3));
  store_half4(odd + kSuffixes + 5 * 128, pack_half4(x.last2));
  store_half4(odd + kSuffixes + 6 * 128, pack_half4(x.of1[3]));
  store_half4(even + kSuffixes + 7 * 128, {0x3c003c00, 0x3c003c00});
  make_quad(x, sum_log2, log2_of, 0);
  __syncwarp();  // all lanes have read z
  const Half4 all = pack_half4(x.all), last = pack_half4(x.of1[3]), last2 = pack_half4(x.last2),
              last3 = pack_half4(x.last3);
  store_half4(even + kOthers, last2);
  store_half4(even + kOthers + 128, pack_half4(x.of1[1]));
  store_half4(even + kOthers + 2 * 128, pack_half4(x.of1[2]));
  store_half4(even + kOthers + 3 * 128, last);
  store_half4(spare + 1024, last3);
  store_half4(even + kPrefixes, pack_half4(x.of1[0]));
  store_half4(even + kPrefixes + 128, pack_half4(x.first2));
  store_half4(even + kPrefixes + 2 * 128, pack_half4(x.first3));
  store_half4(even + kPrefixes + 3 * 128, all);
  // What reaches into the other quad; that one's are read again rather than kept.
  const Half4 later = load_half4(even + kSuffixes + 3 * 128);
  store_half4(even + kSuffixes, last3 * later);
  store_half4(even + kSuffixes + 128, last2 * later);
  store_half4(even + kSuffixes + 2 * 128, last * later);
  store_half4(odd + kPrefixes + 7 * 128, all * later);
  store_half4(odd + kPrefixes + 4 * 128, all * load_half4(odd + kOthers + 4 * 128));
  store_half4(odd + kPrefixes + 5 * 128, all * load_half4(odd + kOthers + 7 * 128));
  store_half4(odd + kPrefixes + 6 * 128, all * load_half4(spare ^ kSwap));
}

// Raw gates in shared memory.
template <KdaGate kGate, class T>
struct RawDecays {
  Gate gate;
  uint32_t rows;  // channel_rows
  __device__ __forceinline__ void prepare(int) {}
  __device__ __forceinline__ void operator()(int token, float (&l)[4]) const {
    const uint2 raw = load_shared((rows ^ (token << 4)) + (kRawZ * kTensorBytes + token * 128));
    const float2 z0 = unpack<T>(raw.x), z1 = unpack<T>(raw.y);
    l[0] = log2_decay<kGate>(gate, z0.x, 0), l[1] = log2_decay<kGate>(gate, z0.y, 1);
    l[2] = log2_decay<kGate>(gate, z1.x, 2), l[3] = log2_decay<kGate>(gate, z1.y, 3);
  }
};
// Log decays given, read with their chunk, two tokens at a time: more would spill.
struct GivenDecays {
  const float* rows;  // the lane's channels of the warp's first token
  int64_t stride;
  int left;  // tokens
  float4 z[2];
  __device__ __forceinline__ void prepare(int first) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      z[i] = float4{};
      if (first + i < left) z[i] = load_constant_floats(rows + (first + i) * stride);
    }
  }
  __device__ __forceinline__ void operator()(int token, float (&l)[4]) const {
    const float4& x = z[token & 1];
    l[0] = x.x * kLog2e, l[1] = x.y * kLog2e, l[2] = x.z * kLog2e, l[3] = x.w * kLog2e;
  }
};
// The same for all channels: that of token l in lane l.
struct HeadDecays {
  float mine;
  __device__ __forceinline__ void prepare(int) {}
  __device__ __forceinline__ void operator()(int token, float (&l)[4]) const {
    l[0] = l[1] = l[2] = l[3] = __shfl_sync(~0u, mine, token);
  }
};

}  // namespace linnet::ops::sm90::prep
