// Four neighbours of a row of the state, as decode, verify and the plain recurrence hold them: f32 in registers, f32 or bf16 in memory.
#pragma once

#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90 {

template <class T>
using Four = std::conditional_t<sizeof(T) == sizeof(float), float4, uint2>;

__device__ __forceinline__ float4 floats_of(float4 x) { return x; }
__device__ __forceinline__ float4 floats_of(uint2 x) {
  const float2 lo = unpack_bf16(x.x), hi = unpack_bf16(x.y);
  return make_float4(lo.x, lo.y, hi.x, hi.y);
}
// bf16: to the nearest, even in a tie.
template <class T>
__device__ __forceinline__ Four<T> four_of(float4 x) {
  if constexpr (sizeof(T) == sizeof(float)) return x;
  else return make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
}

template <class T>
__device__ __forceinline__ float4 load_four(const T* p) {
  return floats_of(*reinterpret_cast<const Four<T>*>(p));
}
template <class T>
__device__ __forceinline__ void store_four(T* p, float4 x) {
  *reinterpret_cast<Four<T>*>(p) = four_of<T>(x);
}

}  // namespace linnet::ops::sm90
