// How kernels name shared memory and are launched, in words that the emulation (tests/emulation) can give its own meaning.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#ifndef LINNET_EMULATED
// A shared variable `name` of the type that follows: LINNET_SHARED(sums, float[4]).
#define LINNET_SHARED(name, ...) __shared__ std::type_identity_t<__VA_ARGS__> name
// The CTA's dynamic shared memory as char* `name`. One name a file for each alignment.
#define LINNET_DYNAMIC_SHARED(name, alignment) \
  extern __shared__ __align__(alignment)       \
  char name[]
#endif

namespace linnet {

// A grid behind the work of the stream.
template <class... Params, class... Args>
cudaError_t launch_grid(void (*kernel)(Params...), dim3 n_ctas, unsigned n_threads, size_t smem_bytes,
                        cudaStream_t stream, const Args&... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = n_ctas;
  config.blockDim = dim3(n_threads);
  config.dynamicSmemBytes = smem_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace linnet
