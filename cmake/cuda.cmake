# The CUDA backend: off by default, and absent without nvcc. Kernels are compiled for Hopper (sm_90a) alone.
#   linnet_cuda               static library of the kernels
#   linear_attn_sm90_{,decode_}check
#                             check them against the definition in double and, with `bench`, time them. Need the GPU.
option(LINNET_CUDA "Build the CUDA kernels (Hopper)" OFF)
if(NOT LINNET_CUDA)
  return()
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  message(FATAL_ERROR "LINNET_CUDA: expected nvcc 12.9 or newer on PATH, found none")
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD_DEFAULT "")
unset(CMAKE_CUDA_STANDARD)

add_library(linnet_cuda STATIC
  src/ops/linear_attn/linear_attn_sm90_prep.cu
  src/ops/linear_attn/linear_attn_sm90_scan.cu
  src/ops/linear_attn/linear_attn_sm90_decode.cu)
target_include_directories(linnet_cuda PUBLIC src)
# The C++ flags of the host build are not nvcc's; the standard is given directly because CMake 3.25 does not know CUDA 13's.
set_property(TARGET linnet_cuda PROPERTY COMPILE_OPTIONS "")
target_compile_options(linnet_cuda PUBLIC -std=c++20 -gencode=arch=compute_90a,code=sm_90a -lineinfo)

foreach(part "" decode_)
  add_executable(linear_attn_sm90_${part}check
    src/ops/linear_attn/linear_attn_sm90_${part}check.cu
    src/ops/linear_attn/linear_attn_sm90_${part}bench.cu)
  set_property(TARGET linear_attn_sm90_${part}check PROPERTY COMPILE_OPTIONS "")
  target_link_libraries(linear_attn_sm90_${part}check PRIVATE linnet_cuda Threads::Threads)
endforeach()
