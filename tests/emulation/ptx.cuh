// src/core/ptx_cuda.cuh, emulated: the same functions of the same names.
#pragma once

namespace linnet::ptx {

inline uint32_t smem_address(const void* p) { return emulation::shared_address(p); }

// ---- arithmetic
inline float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x; }
inline float exp2_fast(float x) { return flushed(std::exp2(flushed(x))); }
inline float log2_fast(float x) { return std::log2(flushed(x)); }
inline float reciprocal_fast(float x) { return flushed(1.f / flushed(x)); }
inline float rsqrt_fast(float x) { return 1.f / std::sqrt(flushed(x)); }
inline uint32_t two(uint16_t lo, uint16_t hi) { return static_cast<uint32_t>(hi) << 16 | lo; }
inline uint16_t half_bits(float x) { return __half_as_ushort(__float2half_rn(x)); }
inline uint32_t pack_bf16(float lo, float hi) {
  return two(__bfloat16_as_ushort(__float2bfloat16_rn(lo)), __bfloat16_as_ushort(__float2bfloat16_rn(hi)));
}
inline uint32_t pack_half(float lo, float hi) { return two(half_bits(lo), half_bits(hi)); }
inline float saturated(float x) { return x > 65504.f ? 65504.f : x < -65504.f ? -65504.f : x; }  // NaN stays
inline uint32_t pack_half_saturated(float lo, float hi) { return pack_half(saturated(lo), saturated(hi)); }
inline uint32_t mul_half2(uint32_t a, uint32_t b) {
  const auto value = [](uint32_t x) { return emulation::to_float(static_cast<uint16_t>(x), emulation::Type16::f16); };
  return pack_half(value(a) * value(b), value(a >> 16) * value(b >> 16));
}

// ---- matrix instructions of one warp
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  emulation::mma(d, a, b, 2, emulation::Type16::f16);
}
template <class T>
void mma_k8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  const uint32_t a[2] = {a0, a1};
  emulation::mma(d, a, &b, 1, std::is_same_v<T, __half> ? emulation::Type16::f16 : emulation::Type16::bf16);
}
inline void ldmatrix(uint32_t (&r)[4], uint32_t address) { emulation::ldmatrix(r, 4, false, address); }
inline void ldmatrix_transposed(uint32_t (&r)[4], uint32_t address) { emulation::ldmatrix(r, 4, true, address); }
inline uint32_t ldmatrix_one(uint32_t address) {
  uint32_t r = 0;
  emulation::ldmatrix(&r, 1, false, address);
  return r;
}
inline void ldmatrix_two_transposed(uint32_t (&r)[2], uint32_t address) { emulation::ldmatrix(r, 2, true, address); }
inline void stmatrix_transposed(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  emulation::stmatrix_transposed(address, {a, b, c, d});
}

// ---- matrix instructions of a warpgroup
inline void wgmma_fence() { emulation::wgmma_fence(); }
inline void wgmma_commit() { emulation::wgmma_commit(); }
template <int kPending>
void wgmma_wait() {
  emulation::wgmma_wait(kPending);
}
template <class T, int n>
void touch(T (&)[n]) {}
inline uint32_t operand(uint32_t address, uint32_t leading_bytes) {
  return (address & 0x3ffff) >> 4 | (leading_bytes >> 4) << 16;
}
template <int kSign>
void wgmma_n64(float (&d)[32], const uint32_t* a, uint32_t b, int accumulate) {
  emulation::wgmma(d, 64, a, b, false, accumulate != 0, kSign);
}
inline void wgmma_n128_transposed(float (&d)[64], const uint32_t* a, uint32_t b) {
  emulation::wgmma(d, 128, a, b, true, true, 1);
}

// ---- bulk copies and barriers
using emulation::barrier_arrive;
using emulation::barrier_arrive_after_copies;
constexpr int kWarpArrivals = 1;
inline void barrier_arrive_warp(uint32_t bar) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(bar);
}
using emulation::barrier_expect;
using emulation::barrier_init;
using emulation::barrier_wait;
using emulation::bulk_load;
using emulation::commit_copies;
using emulation::copy16;
template <int kPending>
void wait_copies() {
  emulation::wait_copies(kPending);
}
inline void prefetch_line(const void*) {}
inline void bulk_prefetch(const void* p, uint32_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % 16 || bytes % 16)
    emulation::fail("a bulk prefetch of %u bytes from %p", bytes, p);
}
inline void fence_barrier_init() {}

// ---- a CTA's barriers and registers
inline void sync_threads(int barrier, int n_threads) { emulation::sync_threads(barrier, n_threads); }
template <int n>
void take_registers() {}
template <int n>
void give_registers() {}

// ---- memory
inline void store_shared_half(uint32_t address, __half x) {
  std::memcpy(emulation::shared_at(address, 2, 2, "st.shared"), &x, 2);
}
inline void store_shared(uint32_t address, uint32_t x) {
  std::memcpy(emulation::shared_at(address, 4, 4, "st.shared"), &x, 4);
}
inline void store_shared(uint32_t address, uint32_t x, uint32_t y) {
  const uint32_t words[2] = {x, y};
  std::memcpy(emulation::shared_at(address, 8, 8, "st.shared"), words, 8);
}
inline void store_shared(uint32_t address, const uint32_t (&x)[4]) {
  std::memcpy(emulation::shared_at(address, 16, 16, "st.shared"), x, 16);
}
template <class T>
T load_vector(uint32_t address) {
  T x;
  std::memcpy(&x, emulation::shared_at(address, sizeof x, sizeof x, "ld.shared"), sizeof x);
  return x;
}
inline uint2 load_shared(uint32_t address) { return load_vector<uint2>(address); }
inline uint4 load_shared4(uint32_t address) { return load_vector<uint4>(address); }
inline void load_shared(uint32_t (&x)[4], uint32_t address) {
  std::memcpy(x, emulation::shared_at(address, 16, 16, "ld.shared"), 16);
}
inline float2 load_shared_floats(uint32_t address) { return load_vector<float2>(address); }
inline float4 load_constant_floats(const float* p) { return *reinterpret_cast<const float4*>(p); }
inline void store_global(char* p, const uint32_t (&x)[4]) {
  *reinterpret_cast<uint4*>(p) = make_uint4(x[0], x[1], x[2], x[3]);
}
inline void store_float(void* p, float x) { *static_cast<float*>(p) = x; }

inline int32_t load_acquire(const int32_t* p) {
  emulation::poll("ld.acquire");
  return *p;
}
inline int32_t load_relaxed(const int32_t* p) {
  emulation::poll("ld.relaxed");
  return *p;
}
inline void store_relaxed(int32_t* p, int32_t x) {
  *p = x;
  emulation::progress++;
}
inline void store_release(int32_t* p, int32_t x) { store_relaxed(p, x); }
inline void fence_proxies() {}

// ---- grids
inline void launch_dependents() { emulation::trigger(*emulation::me->cta); }
inline void wait_for_dependency() { emulation::wait_for_dependency(); }

}  // namespace linnet::ptx
