// The instructions of src/core/ptx_cuda.cuh that need other threads, shared memory or time.
#pragma once

#include "emulation/machine.h"

namespace linnet::emulation {

enum class Type16 { f16, bf16 };

// ---- of a warp
void sync_warp();
uint32_t shuffle(uint32_t x, int from);  // `from`: this lane's source
uint32_t ballot(bool x);
// D[16, 8] += A[16, 8 n] B[8 n, 8], n registers of B.
void mma(float* d, const uint32_t* a, const uint32_t* b, int n, Type16 type);
void ldmatrix(uint32_t* r, int n, bool transposed, uint32_t address);
void stmatrix_transposed(uint32_t address, const uint32_t (&x)[4]);

// ---- of a CTA
void sync_cta();
void sync_threads(int barrier, int n_threads);

// ---- wgmma. b: the low half of the descriptor, 128-byte swizzle, 1024 bytes between groups of 8 rows.
void wgmma_fence();
void wgmma(float* d, int n_columns, const uint32_t* a, uint32_t b, bool transposed, bool accumulate, int sign);
void wgmma_commit();
void wgmma_wait(int n_pending);

// ---- mbarriers and copies
void barrier_init(uint32_t address, int arrivals);
void barrier_expect(uint32_t address, uint32_t bytes);
void barrier_arrive(uint32_t address);
void barrier_arrive_after_copies(uint32_t address);
void barrier_wait(uint32_t address, int phase);
void bulk_load(uint32_t to, const void* from, uint32_t bytes, uint32_t bar);
void copy16(uint32_t to, const void* from, int n_bytes);
void commit_copies();
void wait_copies(int n_pending);

// ---- grids
void wait_for_dependency();

// ---- 16-bit floats
float to_float(uint16_t x, Type16 type);

}  // namespace linnet::emulation
