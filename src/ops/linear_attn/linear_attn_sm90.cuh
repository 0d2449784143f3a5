// Hopper building blocks of the KDA kernels: the record that prefill's two kernels share, thin wrappers of instructions.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "ops/linear_attn/linear_attn_sm90.h"

namespace linnet::ops::sm90 {

constexpr int kDim = kKdaSm90Dim;
constexpr int kChunk = kKdaSm90Chunk;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kL2Eps = 1e-6f;

// One chunk of one head as the scan reads it: f16 matrices of 64 rows (tokens) in panels of 64 columns, 128 bytes a row,
// the 16-byte pieces of row r permuted by piece ^ (r & 7): the 128-byte swizzle of the matrix instructions, so that a bulk
// copy delivers ready operands. Panel p holds the key channels whose number mod 4 is 2p or 2p + 1 (see key_channel): sums
// over channels do not mind, and a lane of prep reads four neighbours at once. With G the log decay summed inside the
// chunk, to the row's own token:
constexpr int kPanelBytes = kChunk * 128;
struct Record {
  char k_in[2 * kPanelBytes];   // K e^G            reads the entering state
  char q_in[2 * kPanelBytes];   // Q e^G
  char k_out[2 * kPanelBytes];  // K e^(G_end - G)  writes the leaving state
  char solve[kPanelBytes];      // (I + L)^-1 diag(beta), L the strict lower triangle of beta K K^T with decay
  char attend[kPanelBytes];     // Q K^T with decay, lower triangle with diagonal
  float decay[kDim];            // e^G_end, columns as in the panels
};
static_assert(sizeof(Record) == 66048 && sizeof(Record) % 256 == 0);

// Key channel of column n of the panels.
__host__ __device__ constexpr int key_channel(int n) { return 4 * ((n & 63) >> 1) + 2 * (n >> 6) + (n & 1); }

// Sequence s owns the record slots from seq_start[s] / 64 + s on: disjoint for any lengths, found without a prefix sum.
__host__ __device__ inline int64_t first_slot(int64_t start, int64_t sequence) { return start / kChunk + sequence; }

// What a build of prefill's kernels is made for. Plain: no options, see KdaPrefillSm90. kGate: head_softplus stands for both gates of a head.
template <KdaGate kGate_, class T_, bool kPlain_>
struct Build {
  static constexpr KdaGate kGate = kGate_;
  static constexpr bool kPlain = kPlain_, kRawRows = kGate_ <= KdaGate::lower_bound;  // z: rows of raw gates
  using T = T_;  // of q, k, v, z, beta logits and out
};

struct SeqStart {
  const void* data;
  bool is_64;
  __device__ int64_t operator[](int i) const {
    return is_64 ? static_cast<const int64_t*>(data)[i] : static_cast<const int32_t*>(data)[i];
  }
};

__device__ __forceinline__ uint32_t smem_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

// log2(1 + 2^x) = max(x, 0) + y P(y), y = 2^-|x|: relative error 9.3e-6 for any x (P interpolates log2(1 + y) / y at
// Chebyshev points), so that slow channels, where 1 + y would lose y, keep their rates.
__device__ __forceinline__ float softplus_log2(float x) {
  const float y = exp2_fast(-fabsf(x));
  float p = fmaf(y, -0.033822045969f, 0.144471095699f);
  p = fmaf(y, p, -0.301638009735f);
  p = fmaf(y, p, 0.468658879144f);
  p = fmaf(y, p, -0.720358772676f);
  p = fmaf(y, p, 1.442681468065f);
  return fmaf(y, p, fmaxf(x, 0.f));
}

// Log2 decay of one channel from its raw gate z. rate = exp(a_log); bias = dt_bias * log2(e). z = -inf: no decay.
template <KdaGate kGate>
__device__ __forceinline__ float log2_decay(float z, float bias, float rate, float lower_bound) {
  const float x = fmaf(z, kLog2e, bias);
  if constexpr (kGate == KdaGate::softplus) {
    return -rate * softplus_log2(x);
  } else {
    return lower_bound * kLog2e * reciprocal_fast(1.f + exp2_fast(-rate * x));
  }
}

__device__ __forceinline__ float2 unpack_bf16(uint32_t x) {
  return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
}
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
__device__ __forceinline__ uint32_t pack_half(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
// Saturates: beyond 65504 an operand is clamped, never infinite.
__device__ __forceinline__ uint32_t pack_half_saturated(float lo, float hi) {
  uint32_t r;
  asm volatile("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;"
               : "=r"(r)
               : "f"(hi), "f"(lo));  // volatile: stays where it is written
  return r;
}
__device__ __forceinline__ float2 unpack_half(uint32_t x) {
  __half2 h;
  memcpy(&h, &x, 4);
  return __half22float2(h);
}
template <class T>
__device__ __forceinline__ float2 unpack(uint32_t x) {
  if constexpr (std::is_same_v<T, __half>) return unpack_half(x);
  else return unpack_bf16(x);
}
template <class T>
__device__ __forceinline__ uint32_t pack(float lo, float hi) {
  if constexpr (std::is_same_v<T, __half>) return pack_half(lo, hi);
  else return pack_bf16(lo, hi);
}
__device__ __forceinline__ uint32_t mul_half2(uint32_t a, uint32_t b) {
  uint32_t r;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

// ---- matrix instructions of one warp: D[16, 8] += A[16, 16] B[16, 8], f16 in, f32 out
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void ldmatrix(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void stmatrix_transposed(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};"
               :
               : "r"(address), "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

// ---- matrix instructions of a warpgroup (wgmma): D[64, n] (+)= A[64, 16] B[16, n], f16, A in registers, B in shared memory
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Tells the compiler that registers change under an instruction in flight.
template <int n>
__device__ __forceinline__ void touch(float (&x)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) asm volatile("" : "+f"(x[i])::"memory");
}

// Pins values to this place: without it the compiler may compute them later, inside a branch.
template <int n>
__device__ __forceinline__ void touch(uint32_t (&x)[n]) {
#pragma unroll
  for (int i = 0; i < n; i++) asm volatile("" : "+r"(x[i])::"memory");
}

// Shared-memory descriptor of a swizzled operand, low half: address and leading byte offset. The high half is constant:
// stride 1024 bytes, 128-byte swizzle. The mask keeps what fits.
__device__ __forceinline__ uint32_t operand(uint32_t address, uint32_t leading_bytes) {
  return (address & 0x3ffff) >> 4 | (leading_bytes >> 4) << 16;
}

// B rows are output columns (k contiguous). kSign: D += kSign A B.
template <int kSign>
__device__ __forceinline__ void wgmma_n64(float (&d)[32], const uint32_t* a, uint32_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\n.reg .b64 desc;\nsetp.ne.b32 p, %37, 0;\nmov.b64 desc, {%36, 0x40000040};\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%"
      "30,%31},"
      "{%32,%33,%34,%35}, desc, p, %38, 1, 0;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(accumulate), "n"(kSign));
}
// B rows are summed over (n contiguous).
__device__ __forceinline__ void wgmma_n128_transposed(float (&d)[64], const uint32_t* a, uint32_t b) {
  asm volatile(
      "{\n.reg .b64 desc;\nmov.b64 desc, {%68, 0x40000040};\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%"
      "30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,"
      "%60,"
      "%61,%62,%63},"
      "{%64,%65,%66,%67}, desc, 1, 1, 1, 1;\n}\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]),
        "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]),
        "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]),
        "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]),
        "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),
        "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]),
        "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b));
}

// ---- bulk copies and barriers (shared-memory addresses)
__device__ __forceinline__ void barrier_init(uint32_t bar, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
// Arrives once this thread's copy16s so far are complete.
__device__ __forceinline__ void barrier_arrive_after_copies(uint32_t bar) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t bar, int phase) {
  asm volatile(
      "{\n.reg .pred done;\nwait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait;\n}\n" ::"r"(bar),
      "r"(phase)
      : "memory");
}
__device__ __forceinline__ void bulk_load(uint32_t smem, const void* global, uint32_t bytes, uint32_t bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(smem),
               "l"(global), "r"(bytes), "r"(bar)
               : "memory");
}
__device__ __forceinline__ void prefetch_line(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}
__device__ __forceinline__ void bulk_prefetch(const void* global, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
}
// 16 bytes, zero when n_bytes is 0 instead of 16.
__device__ __forceinline__ void copy16(uint32_t smem, const void* global, int n_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem), "l"(global), "r"(n_bytes) : "memory");
}
// The next grid of the stream may be scheduled; a thread goes on when the grid before has ended and its writes are seen.
__device__ __forceinline__ void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void wait_for_dependency() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
}  // namespace linnet::ops::sm90
