// Sixteen bytes of bf16 in device code, as kernels of rows read and write them: eight neighbours, in f32 between.
#pragma once

#include <cstdint>

#include "core/ptx_cuda.cuh"

namespace linnet {

constexpr int kPiece = 8;

struct Piece {
  float x[kPiece];
};

__device__ __forceinline__ Piece unpack(uint4 raw) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  Piece r;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    r.x[2 * i] = __uint_as_float(words[i] << 16);
    r.x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return r;
}

// Each rounded to nearest even.
__device__ __forceinline__ uint4 pack(const Piece& r) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; i++) words[i] = ptx::pack_bf16(r.x[2 * i], r.x[2 * i + 1]);
  return make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace linnet
