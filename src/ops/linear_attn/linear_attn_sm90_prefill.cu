// kda_sm90 prefill: one persistent grid of clusters of 2 CTAs, one CTA an SM; the first n_lanes clusters carry states (scan), the
// others prepare records (prep) for them through rings that stay in the L2; or, in turn, prep's own kernel first and then all
// clusters scan. Who does what when: linear_attn_sm90_schedule.cuh.
//
// Scan    a warpgroup of consumers; a warp each that loads records, loads values, stores outputs.
// Prep    3 workgroups of 128 threads a CTA, each one chunk at a time, and a managing warp for each.
// Waits   a scanner for a record, a preparer for a place in the ring, a lane for the state handed over by the one before. Items are
//         taken in the order of time, so the earliest step not yet done can always go on; all CTAs are resident (cooperative launch).
// Registers 128, spills 200, stack 40: at the launch; then consumers 240, their CTA's other warps 88, workgroups 160, managers 32. Most
//         of the spills are the managers', 40 instructions are in prep.
#include <algorithm>

#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/linear_attn/linear_attn_sm90_manage.cuh"
#include "ops/linear_attn/linear_attn_sm90_scan.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int kWorkgroups = 3, kThreads = (kWorkgroups + 1) * prep::kThreads;  // the last four warps manage
constexpr int kPrepBytes = (sizeof(prep::Smem) + 127) / 128 * 128;
constexpr int kSmemBytes = std::max(kScanSmemBytes, kWorkgroups* kPrepBytes);

template <int n>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
}
template <int n>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
}

// Shared by all roles. What a preparer reads again after a chunk need not stay in its registers.
struct Plan {
  Lanes lanes;
  int longest;  // slots of the longest chain
};

// As many lanes as wanted, if no chain is then longer than a lane. All threads of the CTA take part.
__device__ __forceinline__ void make_lanes(const KdaPrefillSm90& a, int n_slots, int n_wanted, Plan& plan) {
  if (threadIdx.x == 0) plan.longest = 1;
  __syncthreads();
  const SeqStart start{a.seq_start, a.seq_start_is_64};
  int mine = 1;
  for (int s = static_cast<int>(threadIdx.x); s < a.n_sequences; s += kThreads)
    mine = max(mine, static_cast<int>(first_slot(start[s + 1], s + 1) - first_slot(start[s], s)));
  if (mine > 1) atomicMax(&plan.longest, mine);
  __syncthreads();
  if (threadIdx.x == 0) {
    const int n_positions = n_slots * a.n_heads;
    plan.lanes = {min(n_wanted, n_positions / plan.longest), n_slots, n_positions};
  }
  __syncthreads();
}

template <KdaGate kGate>
__global__ void __cluster_dims__(kParts, 1, 1) __launch_bounds__(kThreads, 1)
    prefill_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, int n_slots, int n_wanted) {
  extern __shared__ __align__(1024) char smem_bytes[];
  __shared__ Plan plan;
  __shared__ Desk desks[kWorkgroups];
  const uint32_t smem = smem_address(smem_bytes);
  make_lanes(a, n_slots, n_wanted, plan);
  const int lane = static_cast<int>(blockIdx.x) / kParts, part = static_cast<int>(blockIdx.x) % kParts;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128, warp = static_cast<int>(threadIdx.x) / 32 % 4;
  if (lane >= plan.lanes.n_lanes) {
    if (w.in_turn) return;
    if (threadIdx.x < kWorkgroups) init_desk(desks[threadIdx.x]);
    __syncthreads();
    if (warpgroup < kWorkgroups) {
      take_registers<160>();
      prepare<kGate>(a, desks[warpgroup], *reinterpret_cast<prep::Smem*>(smem_bytes + warpgroup * kPrepBytes));
    } else {
      give_registers<32>();
      if (warp < kWorkgroups && (threadIdx.x & 31) == 0) manage(a, w, plan.lanes, desks[warp]);
    }
    return;
  }
  if (threadIdx.x == 0) {
    init_scan_barriers(smem);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster_sync();
  const ScanArgs scan{a, w, plan.lanes, lane, part};
  if (warpgroup == 0) {
    take_registers<240>();
    consume(scan, smem);
  } else {
    give_registers<88>();
    if (warpgroup == 1) {
      if (warp == 0) load_records(scan, smem);
      else if (warp == 1) store_outputs(scan, smem);
      else if (warp == 2) load_value_rows(scan, smem);
    }
  }
  __syncwarp();
  cluster_sync();  // neither CTA leaves while the other may still write here
}

}  // namespace

cudaError_t launch_prefill(const KdaPrefillSm90& a, void* workspace, Schedule schedule, int n_lanes,
                           cudaStream_t stream) {
  const auto kernel =
      a.gate.gate == KdaGate::softplus ? prefill_kernel<KdaGate::softplus> : prefill_kernel<KdaGate::lower_bound>;
  const int64_t n_slots = first_slot(a.n_tokens, a.n_sequences);
  if (n_slots * a.n_heads > 0x7fffffff) return cudaErrorInvalidValue;
  if (const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemBytes))
    return e;
  int device, n_sms;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  if (const cudaError_t e = cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device)) return e;
  const int n_clusters = std::min(n_sms / kParts, kMaxLanes);
  const bool in_turn = schedule == Schedule::in_turn;
  if (n_lanes == 0) n_lanes = in_turn ? n_clusters : n_clusters * 2 / 5;
  n_lanes = std::min(n_lanes, in_turn ? n_clusters : kMaxTogether);
  const Workspace w = workspace_at(workspace, in_turn);
  if (const cudaError_t e = cudaMemsetAsync(w.next_item, 0, kFlagInts * sizeof(int32_t), stream)) return e;
  if (in_turn && a.n_tokens > 0) {
    if (const cudaError_t e = launch_prep(a, w.records, n_slots, stream)) return e;
  }
  // Together: all at once or not at all, for they wait for each other. In turn: scheduled while prep drains.
  cudaLaunchAttribute attribute = {};
  attribute.id = in_turn ? cudaLaunchAttributeProgrammaticStreamSerialization : cudaLaunchAttributeCooperative;
  if (in_turn) attribute.val.programmaticStreamSerializationAllowed = 1;
  else attribute.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(n_clusters * kParts);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSmemBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = !in_turn || a.n_tokens > 0;  // without tokens there was no prep
  return cudaLaunchKernelEx(&config, kernel, a, w, static_cast<int>(n_slots), n_lanes);
}

// Few chains leave most of the GPU to prep, which had better run beside the scans; many fill all clusters with scans; and little work is
// done before a pipeline of both has filled. Records of all chunks at once take memory: beyond 2 GiB together, too, at some cost.
Schedule choose_schedule(int64_t n_tokens, int n_sequences, int n_heads) {
  constexpr int64_t kManyChains = 48, kLittle = 2048, kMostRecords = (2ll << 30) / sizeof(Record);
  const int64_t n_records = first_slot(n_tokens, n_sequences) * n_heads;
  if (n_records > kMostRecords) return Schedule::together;
  const bool many = static_cast<int64_t>(n_sequences) * n_heads >= kManyChains;
  return many || n_records < kLittle ? Schedule::in_turn : Schedule::together;
}

size_t workspace_bytes(int64_t n_tokens, int n_sequences, int n_heads, Schedule schedule) {
  const int64_t n_records = schedule == Schedule::in_turn ? first_slot(n_tokens, n_sequences) * n_heads
                                                          : static_cast<int64_t>(kMaxTogether) * kRing;
  return kFixedBytes + n_records * sizeof(Record);
}

}  // namespace linnet::ops::sm90

namespace linnet::ops {

size_t kda_prefill_sm90_workspace_bytes(int64_t n_tokens, int n_sequences, int n_heads) noexcept {
  return sm90::workspace_bytes(n_tokens, n_sequences, n_heads, sm90::choose_schedule(n_tokens, n_sequences, n_heads));
}

int kda_prefill_sm90(const KdaPrefillSm90& args, void* workspace, CUstream_st* stream) noexcept {
  if (args.n_sequences == 0 || args.n_heads == 0) return cudaSuccess;
  return sm90::launch_prefill(args, workspace, sm90::choose_schedule(args.n_tokens, args.n_sequences, args.n_heads), 0,
                              stream);
}

}  // namespace linnet::ops
