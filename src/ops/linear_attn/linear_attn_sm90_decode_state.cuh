// Four neighbours of a row of the state, as decode, verify and the plain recurrence hold them: f32 in registers, f32 or bf16 in memory.
#pragma once

#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90 {

__device__ __forceinline__ float4 load_four(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ void store_four(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }

__device__ __forceinline__ float4 load_four(const __nv_bfloat16* p) {
  const uint2 x = *reinterpret_cast<const uint2*>(p);
  const float2 lo = unpack_bf16(x.x), hi = unpack_bf16(x.y);
  return make_float4(lo.x, lo.y, hi.x, hi.y);
}
// To the nearest, even in a tie.
__device__ __forceinline__ uint2 packed(float4 x) { return make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)); }
__device__ __forceinline__ void store_four(__nv_bfloat16* p, float4 x) { *reinterpret_cast<uint2*>(p) = packed(x); }

// What a store and a load in T leave of x.
template <class T>
__device__ __forceinline__ float4 kept_in(float4 x) {
  if constexpr (sizeof(T) == sizeof(float)) return x;
  const uint2 p = packed(x);
  const float2 lo = unpack_bf16(p.x), hi = unpack_bf16(p.y);
  return make_float4(lo.x, lo.y, hi.x, hi.y);
}

}  // namespace linnet::ops::sm90
