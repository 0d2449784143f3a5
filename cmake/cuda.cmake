# The CUDA module: liblinnet_cuda.so with all kernels, which the program opens when it is asked for a device. The program itself
# neither links nor includes CUDA. Kernels are compiled for Hopper (sm_90a) alone.
#   LINNET_CUDA   AUTO: built when there is an nvcc that can compile it, and no sanitizer; ON: must be built; OFF
#   LINNET_RACECHECK   kernels for compute-sanitizer's racecheck, slower: every lane arrives at a barrier itself (src/core/ptx_cuda.cuh)
# Sources, by file name: src/ops/*/*_sm90*.cu, src/ops/*/*_cuda*.cu, and the module's own src/*/*_cuda.cu. X_check.cu is a program, with
# X_bench*.cu and X_case*.cu: it checks kernels against their definition and times them. It needs the GPU; the target linnet_cuda_checks is all
# of them.
set(LINNET_CUDA AUTO CACHE STRING "Build the CUDA module (Hopper): AUTO, ON or OFF")
set_property(CACHE LINNET_CUDA PROPERTY STRINGS AUTO ON OFF)
option(LINNET_RACECHECK "Build kernels for compute-sanitizer's racecheck" OFF)
set(LINNET_CUDA_BUILT OFF)

# No module: an error where it must be built, else a line.
macro(linnet_no_cuda reason)
  if(NOT LINNET_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "LINNET_CUDA: ${reason}")
  endif()
  message(STATUS "CUDA module: not built: ${reason}")
  file(REMOVE ${PROJECT_BINARY_DIR}/liblinnet_cuda.so)  # of an earlier configuration
  return()
endmacro()

if(NOT LINNET_CUDA)
  file(REMOVE ${PROJECT_BINARY_DIR}/liblinnet_cuda.so)
  return()
endif()
if(LINNET_CUDA STREQUAL "AUTO" AND (LINNET_SANITIZE OR LINNET_FUZZERS))
  linnet_no_cuda("a build with sanitizers")
endif()
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT DEFINED ENV{CUDACXX})
    find_program(NVCC nvcc PATHS /usr/local/cuda/bin NO_CACHE)
    if(NOT NVCC)
      linnet_no_cuda("expected nvcc 12.9 or newer on PATH, in /usr/local/cuda/bin or named by CUDACXX, found none")
    endif()
    set(ENV{CUDACXX} ${NVCC})
  endif()
  unset(CMAKE_CUDA_COMPILER CACHE)  # one that failed before is tried again
endif()
set(CMAKE_CUDA_ARCHITECTURES OFF)
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  linnet_no_cuda("nvcc cannot compile with this compiler for C++ (CMakeFiles/CMakeError.log)")
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.9)
  linnet_no_cuda("expected nvcc 12.9 or newer, got ${CMAKE_CUDA_COMPILER_VERSION}")
endif()
set(LINNET_CUDA_BUILT ON)
set(CMAKE_CUDA_STANDARD_DEFAULT "")
unset(CMAKE_CUDA_STANDARD)
if(CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
endif()

# The C++ flags of the host build are not nvcc's; the standard is given directly because CMake 3.25 does not know CUDA 13's.
# -Wno-restrict: g++ 12 finds overlaps in `"x" + std::string` that are none (its bug 105651).
# -v: the build's output tells registers, spills and stack of each kernel, for tools/check_kernels.py.
function(linnet_cuda_target name)
  set_property(TARGET ${name} PROPERTY COMPILE_OPTIONS "")
  set_property(TARGET ${name} PROPERTY POSITION_INDEPENDENT_CODE ON)
  set_property(TARGET ${name} PROPERTY CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_compile_options(${name} PRIVATE -std=c++20 -gencode=arch=compute_90a,code=sm_90a -lineinfo -Xptxas=-v
                         -Xcompiler=-Wall,-Wno-restrict,-fvisibility=hidden)
  if(LINNET_RACECHECK)
    target_compile_definitions(${name} PRIVATE LINNET_RACECHECK)
  endif()
endfunction()

file(GLOB cuda_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/*/*_sm90*.cu ${PROJECT_SOURCE_DIR}/src/ops/*/*_cuda*.cu)
file(GLOB cuda_module_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*/*_cuda.cu)
set(cuda_checks ${cuda_sources})
list(FILTER cuda_sources EXCLUDE REGEX "_(check|bench|case)[^/]*\\.cu$")
list(FILTER cuda_checks INCLUDE REGEX "_check\\.cu$")

add_library(linnet_cuda_kernels OBJECT ${cuda_sources})
linnet_cuda_target(linnet_cuda_kernels)
add_library(linnet_cuda MODULE ${cuda_module_sources} $<TARGET_OBJECTS:linnet_cuda_kernels>)
linnet_cuda_target(linnet_cuda)
target_link_options(linnet_cuda PRIVATE -Wl,--exclude-libs,ALL -Wl,--no-undefined)
foreach(target linnet ops_test)  # what opens it
  if(TARGET ${target})
    add_dependencies(${target} linnet_cuda)
  endif()
endforeach()

add_custom_target(linnet_cuda_checks)
foreach(source ${cuda_checks})
  string(REGEX REPLACE "_check\\.cu$" "" stem ${source})
  get_filename_component(program ${source} NAME_WE)
  file(GLOB parts CONFIGURE_DEPENDS ${stem}_bench*.cu ${stem}_case*.cu)
  add_executable(${program} EXCLUDE_FROM_ALL ${source} ${parts} $<TARGET_OBJECTS:linnet_cuda_kernels>)
  linnet_cuda_target(${program})
  target_link_libraries(${program} PRIVATE Threads::Threads)
  add_dependencies(linnet_cuda_checks ${program})
endforeach()
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  add_subdirectory(tests/emulation)
endif()
