// kda_sm90 prefill with chains cut in time (linear_attn_sm90_segments.cuh): prep, then the three kernels below.
//
// Threads map, segment: two warpgroups of consumers and three warps that serve them, as in the prefill's grid; a CTA for a map or
//         a segment. chain: 16 warps, 8 columns of one chain's states; a warp has 4 rows and 64 further on, a lane an eighth of each sum.
// Smem    map, segment 198,816 B as the scan; chain 9,216 B: the state's columns before and after.
// Traffic map 41,472 B of each record twice, segment 66,048 B; chain reads 65,536 B of each map in 16 CTAs.
// map_kernel: registers 168.
// segment_kernel: registers 168, spills 296, stack 112.
// chain_kernel: registers 100.
#include <algorithm>

#include "ops/linear_attn/linear_attn_sm90_kernels.cuh"
#include "ops/linear_attn/linear_attn_sm90_prefill.cuh"
#include "ops/linear_attn/linear_attn_sm90_segments.cuh"

namespace linnet::ops::sm90 {
namespace {

// The piece of a chain that a lane takes first: it ends with the lane.
__device__ __forceinline__ Piece last_piece(const KdaPrefillSm90& a, const Lanes& lanes, int lane) {
  const int lo = lanes.first(lane), hi = lanes.first(lane + 1);
  return find_piece(SeqStart{a.seq_start, a.seq_start_is_64}, a.n_sequences, lanes.n_slots, hi - 1, lo, hi);
}

// Two CTAs a lane: S0 (or the state itself, where a chain begins) and M. Side by side, so that a record is read once from memory.
template <class T>
__global__ void __launch_bounds__(kScanThreads<MapScan>, 1)
    map_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, const SegmentSpace space,
               const Lanes lanes) {
  LINNET_DYNAMIC_SHARED(smem_bytes, 1024);
  const uint32_t smem = smem_address(smem_bytes);
  const int lane = static_cast<int>(blockIdx.x) / 2;
  const bool of_identity = blockIdx.x % 2 != 0;
  const Piece piece = last_piece(a, lanes, lane);
  if (piece.end == piece.chain_end || (of_identity && piece.first == piece.chain_first)) return;
  begin_scan<MapScan>(smem);
  const int warpgroup = static_cast<int>(threadIdx.x) / kConsumers;
  const MapScan scan{{a, w, lanes, lane, warpgroup}, space, piece, of_identity};
  if (warpgroup < kParts) {
    take_registers<kConsumerRegisters>();
    consume_map<T>(scan, smem);
  } else {
    give_registers<kServantRegisters>();
    serve(scan, smem, static_cast<int>(threadIdx.x) / 32 % 4);
  }
}

template <class T>
__global__ void __launch_bounds__(kScanThreads<SegmentScan>, 1)
    segment_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, const SegmentSpace space,
                   const Lanes lanes) {
  LINNET_DYNAMIC_SHARED(smem_bytes, 1024);
  const uint32_t smem = smem_address(smem_bytes);
  begin_scan<SegmentScan>(smem);
  const int warpgroup = static_cast<int>(threadIdx.x) / kConsumers;
  const SegmentScan scan{{a, w, lanes, static_cast<int>(blockIdx.x), warpgroup}, space};
  if (warpgroup < kParts) {
    take_registers<kConsumerRegisters>();
    consume<T>(scan, smem);
  } else {
    give_registers<kServantRegisters>();
    serve(scan, smem, static_cast<int>(threadIdx.x) / 32 % 4);
  }
}

constexpr int kChainThreads = 512, kColumns = 8;
constexpr int kLanesOfSum = 8;  // of a warp, which share a sum
// Row k of kColumns columns in shared memory: rows that a warp reads at once, 4 apart, lie in different banks.
__device__ __forceinline__ int column_row(int k) { return k * kColumns + (k >> 2) * 4; }
constexpr int kColumnFloats = kDim * kColumns + kDim;

// This thread's part of M: rows `row` and row + 64, columns 4 eighth + 32 i + 0..3.
struct MapPart {
  float4 x[2][4];
  __device__ __forceinline__ void load(const float* map, int row, int eighth) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        x[r][i] = __ldg(reinterpret_cast<const float4*>(map + (row + 64 * r) * kDim + 4 * eighth + 32 * i));
    }
  }
};

// Products of this thread's part of M with the state's columns: sum[8 r + column].
__device__ __forceinline__ void multiply(float (&sum)[16], const MapPart& m, const float* state, int eighth) {
#pragma unroll
  for (int i = 0; i < 16; i++) sum[i] = 0.f;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float a[4] = {m.x[0][i].x, m.x[0][i].y, m.x[0][i].z, m.x[0][i].w};
    const float b[4] = {m.x[1][i].x, m.x[1][i].y, m.x[1][i].z, m.x[1][i].w};
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float* const row = state + column_row(4 * eighth + 32 * i + e);
      const float4 lo = *reinterpret_cast<const float4*>(row), hi = *reinterpret_cast<const float4*>(row + 4);
      const float s[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
#pragma unroll
      for (int c = 0; c < kColumns; c++) {
        sum[c] = fmaf(a[e], s[c], sum[c]);
        sum[kColumns + c] = fmaf(b[e], s[c], sum[kColumns + c]);
      }
    }
  }
}

// Sums over the 8 lanes that share rows: lane `eighth` is left with sums 2 eighth and 2 eighth + 1, in sum[0] and sum[1].
__device__ __forceinline__ void share_sums(float (&sum)[16], int eighth) {
#pragma unroll
  for (int n = 8; n >= 2; n /= 2) {
    const int other = n / 2;  // the lane that takes the other half
    const bool upper = eighth & other;
#pragma unroll
    for (int i = 0; i < n; i++) {
      const float given = upper ? sum[i] : sum[i + n], kept = upper ? sum[i + n] : sum[i];
      sum[i] = kept + __shfl_xor_sync(~0u, given, other);
    }
  }
}

// Entering states of all segments of a chain, from the first to the last: block (columns, lane in which the chain begins).
__global__ void __launch_bounds__(kChainThreads)
    chain_kernel(const __grid_constant__ KdaPrefillSm90 a, const SegmentSpace space, const Lanes lanes) {
  struct alignas(16) States {
    float of[2][kColumnFloats];
  };
  LINNET_SHARED(states, States);
  auto& state = states.of;
  const int begins = static_cast<int>(blockIdx.y);
  const Piece piece = last_piece(a, lanes, begins);
  if (piece.end == piece.chain_end || piece.first > piece.chain_first) return;
  const int thread = static_cast<int>(threadIdx.x), eighth = thread % kLanesOfSum, row = thread / kLanesOfSum;
  const int row_out = row + 64 * (eighth / 4), column_out = 2 * (eighth % 4);  // what share_sums leaves here
  const auto goes_on = [&](int lane) { return lanes.first(lane + 1) < piece.chain_end; };
  float* entering = space.entering + static_cast<int64_t>(begins + 1) * kStateFloats + kColumns * blockIdx.x;
  const float* map = space.maps + static_cast<int64_t>(begins + 1) * kStateFloats;
  *reinterpret_cast<float2*>(&state[0][column_row(row_out) + column_out]) =
      *reinterpret_cast<const float2*>(entering + row_out * kDim + column_out);
  MapPart m;
  if (goes_on(begins + 1)) m.load(map, row, eighth);
  __syncthreads();
  for (int lane = begins + 1, from = 0; goes_on(lane); lane++, from ^= 1) {
    const MapPart now = m;
    map += kStateFloats;
    entering += kStateFloats;  // of lane + 1: S0 until now
    if (goes_on(lane + 1)) m.load(map, row, eighth);
    float2* const to = reinterpret_cast<float2*>(entering + row_out * kDim + column_out);
    float2 next = *to;
    float sum[16];
    multiply(sum, now, state[from], eighth);
    share_sums(sum, eighth);
    next.x += sum[0];
    next.y += sum[1];
    *to = next;
    *reinterpret_cast<float2*>(&state[from ^ 1][column_row(row_out) + column_out]) = next;
    __syncthreads();
  }
}

SegmentSpace space_at(const Workspace& w, int64_t n_records) {
  SegmentSpace s;
  s.entering = w.handoff;
  s.initial = reinterpret_cast<float*>(w.records + n_records);
  s.maps = s.initial + static_cast<int64_t>(kSegmentLanes) * kStateFloats;
  return s;
}

}  // namespace

static_assert(kHandoffFloats == kStateFloats && kSegmentLanes <= kMaxLanes);

cudaError_t launch_segments(const KdaPrefillSm90& a, void* workspace, int n_lanes, cudaStream_t stream) {
  const int64_t n_slots = first_slot(a.n_tokens, a.n_sequences), n_positions = n_slots * a.n_heads;
  if (n_positions > 0x7fffffff) return cudaErrorInvalidValue;
  if (a.checkpoints || a.head_dim < kDim) return cudaErrorNotSupported;
  const Lanes lanes{
      static_cast<int>(std::min<int64_t>(n_lanes ? std::min(n_lanes, kSegmentLanes) : kSegmentLanes, n_positions)),
      static_cast<int>(n_slots), static_cast<int>(n_positions)};
  const bool f16 = a.input == KdaInput::f16;
  const auto map = f16 ? map_kernel<__half> : map_kernel<__nv_bfloat16>;
  const auto segment = f16 ? segment_kernel<__half> : segment_kernel<__nv_bfloat16>;
  for (const auto kernel : {map, segment})
    if (const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kScanSmemBytes))
      return e;
  const Workspace w = workspace_at(workspace, Flow::in_turn, n_positions, 1);
  const SegmentSpace space = space_at(w, n_positions);
  if (a.n_tokens > 0)
    if (const cudaError_t e = launch_prep(a, w.records, n_slots, stream)) return e;
  if (lanes.n_lanes > 1) {  // nothing goes on behind the last lane
    const unsigned n_maps = static_cast<unsigned>(lanes.n_lanes - 1);
    if (const cudaError_t e =
            launch_grid(map, 2 * n_maps, kScanThreads<MapScan>, kScanSmemBytes, stream, a, w, space, lanes))
      return e;
    if (const cudaError_t e =
            launch_grid(chain_kernel, dim3(kDim / kColumns, n_maps), kChainThreads, 0, stream, a, space, lanes))
      return e;
  }
  return launch_grid(segment, static_cast<unsigned>(lanes.n_lanes), kScanThreads<SegmentScan>, kScanSmemBytes, stream,
                     a, w, space, lanes);
}

}  // namespace linnet::ops::sm90
