// kda_sm90 scan: carries the state of one (sequence, head, half of the value columns) over its Records and writes the output.
//
// With K~ = k_in, Q~ = q_in, K^ = k_out, T = solve, A = attend, D = decay of a Record and V its values:
//   R = V - K~ S      U = T R      O = scale (Q~ S + A U)      S <- D S + K^T U
// Grid    a cluster of 2 CTAs per (sequence, head), 64 value columns each; every record is read once for both (multicast).
// Layout  all transposed, value columns as the 64 rows of the matrix instruction: the state stays in registers as an f32
//         accumulator, and every product's result, rounded to f16, is the left operand of the next one in the same threads: no
//         shared memory and no exchange between warps on the chain  S -> R -> U -> S.
// Roles   one consumer warpgroup; a producer warp: half of the record to both CTAs by one bulk copy, V by 16-byte copies; a storing
//         warp for the outputs.
// Smem    3 stages of 66,560 B record + 9,216 B of V, whose place the output takes before it leaves: 227,328 B and 9 barriers.
// Numeric state and sums f32; S, R, U rounded to f16, saturating at 65504. Deterministic: one order of sums, no atomics.
// Traffic per (chunk, head): record 66,048 B, V and O 32,768 B.
#include "ops/linear_attn/linear_attn_sm90.cuh"
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int kStages = 3, kParts = 2;
constexpr int kConsumers = 128, kThreads = kConsumers + 2 * 32;
constexpr int kValueStride =
    144;  // bytes of a token's 64 values: padding makes ldmatrix and stmatrix free of bank conflicts
constexpr int kRecordBytes = 66560;  // a record in shared memory, rounded up to the swizzle's 1024
constexpr int kValueBytes = kChunk * kValueStride;
constexpr int kValueOffset = kStages * kRecordBytes, kBarrierOffset = kValueOffset + kStages * kValueBytes;
constexpr int kSmemBytes = kBarrierOffset + 3 * kStages * 8;
constexpr uint32_t kHalfRecord = sizeof(Record) / kParts;
static_assert(kHalfRecord % 16 == 0 && kSmemBytes <= 232448);

struct Work {
  int64_t token;  // first of the sequence
  int64_t length;
  int n_chunks;
  int head, sequence, part;
};

// Position in the ring: stage, and the parity of its barriers' phase.
struct Cursor {
  int stage = 0, phase = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};
__device__ __forceinline__ uint32_t full(uint32_t smem, int stage) { return smem + kBarrierOffset + stage * 8; }
__device__ __forceinline__ uint32_t empty(uint32_t smem, int stage) { return full(smem, kStages + stage); }
__device__ __forceinline__ uint32_t written(uint32_t smem, int stage) { return full(smem, 2 * kStages + stage); }

__device__ __forceinline__ void produce(const KdaPrefillSm90& a, const Work& w, const Record* records, uint32_t smem) {
  constexpr int kAhead = 2;  // records asked into the L2 before there is room for them here
  const int lane = threadIdx.x & 31;
  const char* value = static_cast<const char*>(a.v) +
                      ((w.token + (lane >> 3)) * a.token_stride + w.head * kDim + w.part * 64) * 2 + (lane & 7) * 16;
  const int64_t step = 4 * a.token_stride * 2;  // the warp copies 4 tokens at a time
  const char* record = reinterpret_cast<const char*>(records) + w.part * kHalfRecord;
  const int64_t record_step = static_cast<int64_t>(a.n_heads) * sizeof(Record);
  int left = static_cast<int>(w.length < 0x7fffffff ? w.length : 0x7fffffff) - (lane >> 3);
  Cursor at;
  wait_for_dependency();  // the records; everything else is older than prep
  for (int c = 0; c < w.n_chunks; c++) {
    if (c >= kStages) barrier_wait(empty(smem, at.stage), at.phase ^ 1);
    const uint32_t bar = full(smem, at.stage);
    if (lane == 0) {
      barrier_expect(bar, sizeof(Record));
      bulk_load_multicast(smem + at.stage * kRecordBytes + w.part * kHalfRecord, record, kHalfRecord, bar,
                          (1 << kParts) - 1);
      if (c + kAhead < w.n_chunks) bulk_prefetch(record + kAhead * record_step, kHalfRecord);
    }
    __syncwarp();
    const uint32_t to = smem + kValueOffset + at.stage * kValueBytes + (lane >> 3) * kValueStride + (lane & 7) * 16;
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const bool valid = 4 * i < left;
      copy16(to + 4 * i * kValueStride, valid ? value + i * step : static_cast<const char*>(a.v), valid ? 16 : 0);
    }
    barrier_arrive_after_copies(bar);
    value += 16 * step;
    record += record_step;
    left -= kChunk;
    at.advance();
  }
}

template <int n>
__device__ __forceinline__ void to_operand(uint32_t (&a)[n / 2], const float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n / 2; i++) a[i] = pack_half_saturated(d[2 * i], d[2 * i + 1]);
}

// R = V^T of one warp: 16 value columns (rows here) x 64 tokens. Tokens beyond the sequence are zero.
__device__ __forceinline__ void load_values(float (&r)[32], uint32_t value) {
#pragma unroll
  for (int j = 0; j < 4; j++) {  // 16 tokens
    uint32_t v[4];               // (tokens 0-7, rows 0-7), (0-7, 8-15), (8-15, 0-7), (8-15, 8-15)
    ldmatrix_transposed(v, value + j * 16 * kValueStride);
#pragma unroll
    for (int x = 0; x < 4; x++) {
      const float2 f = unpack_bf16(v[x]);
      r[8 * j + 2 * x] = f.x;
      r[8 * j + 2 * x + 1] = f.y;
    }
  }
}

// O of one warp into the place of the values it has used: scaled, rounded to bf16, token-major again.
__device__ __forceinline__ void put_output(uint32_t fragment, const float (&o)[32], float scale) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    uint32_t p[4];
#pragma unroll
    for (int x = 0; x < 4; x++) p[x] = pack_bf16(o[8 * j + 2 * x] * scale, o[8 * j + 2 * x + 1] * scale);
    stmatrix_transposed(fragment + j * 16 * kValueStride, p[0], p[1], p[2], p[3]);
  }
}

// The storing warp: each chunk's outputs from shared memory to the tensor, then the stage is free in both CTAs (the consumers have
// read all of it when they have written the outputs).
__device__ __forceinline__ void store_outputs(const KdaPrefillSm90& a, const Work& w, uint32_t smem) {
  const int lane = threadIdx.x & 31;
  char* to = static_cast<char*>(a.out) + ((w.token + (lane >> 3)) * a.token_stride + w.head * kDim + w.part * 64) * 2 +
             (lane & 7) * 16;
  const int64_t step = 4 * a.token_stride * 2;
  int left = static_cast<int>(w.length < 0x7fffffff ? w.length : 0x7fffffff) - (lane >> 3);
  Cursor at;
  for (int c = 0; c < w.n_chunks; c++) {
    barrier_wait(written(smem, at.stage), at.phase);
    const uint32_t from = smem + kValueOffset + at.stage * kValueBytes + (lane >> 3) * kValueStride + (lane & 7) * 16;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      uint4 v[8];
#pragma unroll
      for (int i = 0; i < 8; i++)
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v[i].x), "=r"(v[i].y), "=r"(v[i].z), "=r"(v[i].w)
                     : "r"(from + (8 * half + i) * 4 * kValueStride)
                     : "memory");
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int row = 4 * (8 * half + i);
        if (row < left) *reinterpret_cast<uint4*>(to + (8 * half + i) * step) = v[i];
      }
    }
    __syncwarp();
    if (lane < kParts) barrier_arrive_at(empty(smem, at.stage), lane);
    to += 16 * step;
    left -= kChunk;
    at.advance();
  }
}

// The lane's 32 columns of D; decay: shared address of its first pair.
__device__ __forceinline__ void load_decay(float (&d)[32], uint32_t decay) {
#pragma unroll
  for (int j = 0; j < 16; j++)
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(d[2 * j]), "=f"(d[2 * j + 1]) : "r"(decay + 32 * j));
}
// S = D S.
__device__ __forceinline__ void scale_columns(float (&s)[64], const float (&d)[32]) {
#pragma unroll
  for (int j = 0; j < 16; j++) {
    s[4 * j] *= d[2 * j];
    s[4 * j + 1] *= d[2 * j + 1];
    s[4 * j + 2] *= d[2 * j];
    s[4 * j + 3] *= d[2 * j + 1];
  }
}

// D (+)= sign S operand^T, 128 key channels: the product with K~ or Q~ whose descriptor is b.
template <int kSign>
__device__ __forceinline__ void read_state(float (&d)[32], const uint32_t (&s)[32], uint32_t b, bool accumulate) {
#pragma unroll
  for (int kk = 0; kk < 8; kk++)
    wgmma_n64<kSign>(d, s + 4 * kk, b + (((kk >> 2) * kPanelBytes + (kk & 3) * 32) >> 4), accumulate || kk > 0);
  wgmma_commit();
}
// D (+)= x operand^T, 64 tokens: the product with T or A.
__device__ __forceinline__ void mix_tokens(float (&d)[32], const uint32_t (&x)[16], uint32_t b, bool accumulate) {
#pragma unroll
  for (int kk = 0; kk < 4; kk++) wgmma_n64<1>(d, x + 4 * kk, b + (kk * 32 >> 4), accumulate || kk > 0);
  wgmma_commit();
}

__device__ __forceinline__ void consume(const KdaPrefillSm90& a, const Work& w, uint32_t smem) {
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int g = lane >> 2, t2 = (lane & 3) * 2;
  const int column = 64 * w.part + 16 * warp;
  const auto pool = [&](const int32_t* slots) -> float* {
    const int slot = slots ? slots[w.sequence] : -1;
    if (slot < 0) return nullptr;
    return a.state + (static_cast<int64_t>(slot) * a.n_heads + w.head) * kDim * kDim + column + g;
  };

  float s[64];  // S^T: rows g and g + 8 of the warp's 16 value columns, panel columns 8 j + t2, + 1
  const float* in = pool(a.state_in);
#pragma unroll
  for (int j = 0; j < 16; j++) {
#pragma unroll
    for (int x = 0; x < 4; x++) s[4 * j + x] = in ? in[key_channel(8 * j + t2 + (x & 1)) * kDim + 8 * (x >> 1)] : 0.f;
  }
  // Each warp's 16 columns of V in a stage are read by it alone, so its outputs may take their place.
  const uint32_t fragment =
      smem + kValueOffset + warp * 32 + ((lane & 7) + ((lane >> 4) << 3)) * kValueStride + ((lane >> 3) & 1) * 16;

  uint32_t s_operand[32], u_operand[16];
  float r[32], o[32];
  Cursor at;
  const auto record_of = [&](int stage) { return smem + stage * kRecordBytes; };
  to_operand(s_operand, s);
  if (w.n_chunks > 0) {
    barrier_wait(full(smem, 0), 0);
    load_values(r, fragment);
  }
#pragma unroll 1
  for (int c = 0; c < w.n_chunks; c++) {  // no product stands under a condition: the compiler would wait for each one
    const uint32_t record = record_of(at.stage);
    touch(r);
    wgmma_fence();
    read_state<-1>(r, s_operand, operand(record + offsetof(Record, k_in), 16), true);  // R = V - K~ S
    touch(o);
    wgmma_fence();
    read_state<1>(o, s_operand, operand(record + offsetof(Record, q_in), 16), false);  // O = Q~ S
    float decay[32];
    load_decay(decay, record + t2 * 4 + static_cast<uint32_t>(offsetof(Record, decay)));
    wgmma_wait<1>();
    touch(r);
    uint32_t r_operand[16];
    to_operand(r_operand, r);
    float u[32];
    wgmma_fence();
    mix_tokens(u, r_operand, operand(record + offsetof(Record, solve), 16), false);  // U = T R
    scale_columns(s, decay);
    wgmma_wait<0>();
    touch(u);
    touch(o);
    to_operand(u_operand, u);
    touch(s);
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 4; kk++)  // S += K^T U
      wgmma_n128_transposed(s, u_operand + 4 * kk, operand(record + offsetof(Record, k_out) + kk * 2048, kPanelBytes));
    wgmma_commit();
    mix_tokens(o, u_operand, operand(record + offsetof(Record, attend), 16), true);  // O += A U
    const int stage = at.stage;
    at.advance();
    if (c + 1 < w.n_chunks) barrier_wait(full(smem, at.stage), at.phase);
    load_values(r, fragment + at.stage * kValueBytes);  // after the last chunk: leftovers, never used
    wgmma_wait<1>();
    touch(s);
    to_operand(s_operand, s);
    wgmma_wait<0>();
    touch(o);
    put_output(fragment + stage * kValueBytes, o, a.scale);
    __syncwarp();
    if (lane == 0) barrier_arrive(written(smem, stage));
  }

  if (float* final_state = pool(a.state_out)) {
#pragma unroll
    for (int j = 0; j < 16; j++) {
#pragma unroll
      for (int x = 0; x < 4; x++) final_state[key_channel(8 * j + t2 + (x & 1)) * kDim + 8 * (x >> 1)] = s[4 * j + x];
    }
  }
}

__global__ void __cluster_dims__(kParts, 1, 1) __launch_bounds__(kThreads, 1)
    scan_kernel(const __grid_constant__ KdaPrefillSm90 a, const Record* records) {
  extern __shared__ __align__(1024) char smem_bytes[];
  const uint32_t smem = smem_address(smem_bytes);
  const SeqStart start{a.seq_start, a.seq_start_is_64};
  Work w;
  w.part = static_cast<int>(blockIdx.x % kParts);
  w.head = static_cast<int>(blockIdx.x / kParts % a.n_heads);
  w.sequence = static_cast<int>(blockIdx.x / kParts / a.n_heads);
  w.token = start[w.sequence];
  w.length = start[w.sequence + 1] - w.token;
  w.n_chunks = static_cast<int>((w.length + kChunk - 1) / kChunk);

  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; i++) {
      barrier_init(full(smem, i), 1 + 32);   // the record's bytes, and each producer lane's copies
      barrier_init(empty(smem, i), kParts);  // the storing warps of the cluster
      barrier_init(written(smem, i), kConsumers / 32);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster_sync();
  if (threadIdx.x >= kConsumers + 32) {
    store_outputs(a, w, smem);
  } else if (threadIdx.x >= kConsumers) {
    produce(a, w, records + first_slot(w.token, w.sequence) * a.n_heads + w.head, smem);
  } else {
    consume(a, w, smem);
  }
  __syncwarp();
  cluster_sync();  // neither CTA leaves while the other may still write here
}

}  // namespace

cudaError_t launch_scan(const KdaPrefillSm90& a, const Record* records, cudaStream_t stream) {
  if (const cudaError_t e = cudaFuncSetAttribute(scan_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemBytes))
    return e;
  const unsigned grid = static_cast<unsigned>(a.n_sequences) * a.n_heads * kParts;
  // Scheduled while prep drains: barriers and state are ready when the last record is.
  cudaLaunchAttribute beside = {};
  beside.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  beside.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSmemBytes;
  config.stream = stream;
  config.attrs = &beside;
  config.numAttrs = a.n_tokens > 0;  // without tokens there was no prep
  return cudaLaunchKernelEx(&config, scan_kernel, a, records);
}

}  // namespace linnet::ops::sm90

namespace linnet::ops {

size_t kda_prefill_sm90_workspace_bytes(int64_t n_tokens, int n_sequences, int n_heads) noexcept {
  return static_cast<size_t>(sm90::first_slot(n_tokens, n_sequences)) * n_heads * sizeof(sm90::Record);
}

int kda_prefill_sm90(const KdaPrefillSm90& args, void* workspace, CUstream_st* stream) noexcept {
  if (args.n_sequences == 0 || args.n_heads == 0) return cudaSuccess;
  auto* records = static_cast<sm90::Record*>(workspace);
  const int64_t n_slots = sm90::first_slot(args.n_tokens, args.n_sequences);
  if (args.n_tokens > 0) {
    if (const cudaError_t e = sm90::launch_prep(args, records, n_slots, stream)) return e;
  }
  return sm90::launch_scan(args, records, stream);
}

}  // namespace linnet::ops
