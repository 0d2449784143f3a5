// CUDA C++ for a host compiler: included before each file of kernels that is built for the emulation.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "emulation/instructions.h"

// ---- keywords
#undef __device__
#undef __host__
#undef __global__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

// ---- where a thread is
namespace linnet::emulation {

inline const Index& thread_index() { return me->index; }
inline const Index& cta_index() { return me->cta->index; }
inline const Index& n_threads() { return me->cta->grid->n_threads; }
inline const Index& n_ctas() { return me->cta->grid->n_ctas; }
// Reads as uint3 does.
template <const Index& (*kOf)()>
struct Position {
  template <unsigned Index::*kMember>
  struct Part {
    operator unsigned() const { return kOf().*kMember; }
  };
  Part<&Index::x> x;
  Part<&Index::y> y;
  Part<&Index::z> z;
};

}  // namespace linnet::emulation
inline constexpr linnet::emulation::Position<linnet::emulation::thread_index> threadIdx{};
inline constexpr linnet::emulation::Position<linnet::emulation::cta_index> blockIdx{};
inline constexpr linnet::emulation::Position<linnet::emulation::n_threads> blockDim{};
inline constexpr linnet::emulation::Position<linnet::emulation::n_ctas> gridDim{};

// ---- shared memory (src/core/kernel_cuda.cuh)
#define LINNET_SHARED(name, ...)                                                                    \
  static const char name##_key = 0;                                                                 \
  auto& name = *static_cast<std::type_identity_t<__VA_ARGS__>*>(::linnet::emulation::static_shared( \
      &name##_key, sizeof(std::type_identity_t<__VA_ARGS__>), alignof(std::type_identity_t<__VA_ARGS__>)))
#define LINNET_DYNAMIC_SHARED(name, alignment) char* const name = ::linnet::emulation::dynamic_shared(alignment)

// ---- functions of CUDA C++
using std::max;
using std::min;

inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline int __ffs(uint32_t x) { return __builtin_ffs(static_cast<int>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(uint32_t x) { return x ? __builtin_clz(x) : 32; }
inline uint32_t __brev(uint32_t x) {
  uint32_t y = 0;
  for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
  return y;
}
inline int __popc(uint32_t x) { return std::popcount(x); }
inline long long clock64() { return static_cast<long long>(linnet::emulation::progress); }

inline void __syncthreads() { linnet::emulation::sync_cta(); }
inline void __syncwarp(unsigned = ~0u) { linnet::emulation::sync_warp(); }
template <class T>
T __shfl_sync(unsigned, T x, int lane, int width = 32) {
  const int from = (linnet::emulation::me->lane & -width) | (lane & (width - 1));
  std::array<uint32_t, sizeof(T) / 4> words;
  static_assert(sizeof words == sizeof x);
  std::memcpy(words.data(), &x, sizeof x);
  for (uint32_t& word : words) word = linnet::emulation::shuffle(word, from);
  std::memcpy(&x, words.data(), sizeof x);
  return x;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32) {
  return __shfl_sync(mask, x, (linnet::emulation::me->lane & (width - 1)) ^ bits, width);
}
template <class T>
T __shfl_up_sync(unsigned, T x, unsigned by, int width = 32) {
  const int lane = linnet::emulation::me->lane, at = lane & (width - 1);
  return __shfl_sync(0, x, at >= static_cast<int>(by) ? at - static_cast<int>(by) : at, width);
}
template <class T>
T __shfl_down_sync(unsigned, T x, unsigned by, int width = 32) {
  const int lane = linnet::emulation::me->lane, at = lane & (width - 1);
  return __shfl_sync(0, x, at + static_cast<int>(by) < width ? at + static_cast<int>(by) : at, width);
}
inline unsigned __ballot_sync(unsigned, bool x) { return linnet::emulation::ballot(x); }
inline bool __any_sync(unsigned, bool x) { return linnet::emulation::ballot(x) != 0; }

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
inline void __threadfence() {}
inline void __nanosleep(unsigned) { linnet::emulation::poll("__nanosleep"); }
template <class T>
T atomicAdd(T* p, T x) {
  const T before = *p;
  *p = before + x;
  linnet::emulation::progress++;
  return before;
}
template <class T>
T atomicMax(T* p, T x) {
  const T before = *p;
  *p = std::max(before, x);
  linnet::emulation::progress++;
  return before;
}
template <class T>
T atomicMin(T* p, T x) {
  const T before = *p;
  *p = std::min(before, x);
  linnet::emulation::progress++;
  return before;
}
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

// ---- launches
namespace linnet::emulation {

// A grid behind the work of a stream, or among what is captured of it.
cudaError_t enqueue(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> call);

template <class... Params, class... Args>
cudaError_t launch(const cudaLaunchConfig_t* config, void (*kernel)(Params...), const Args&... args) {
  return enqueue(*config, reinterpret_cast<const void*>(kernel),
                 [kernel, values = std::tuple<std::remove_cv_t<Params>...>(args...)] { std::apply(kernel, values); });
}

}  // namespace linnet::emulation
#define cudaLaunchKernelEx ::linnet::emulation::launch
template <class... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

#include "emulation/ptx.cuh"
