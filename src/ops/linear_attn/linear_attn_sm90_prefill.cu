// kda_sm90 prefill: the launches, and the plain builds of the grid of linear_attn_sm90_prefill.cuh.
// Registers 128, spills 200, stack 40: at the launch; then consumers 240, their CTA's other warps 88, workgroups 160, managers 32. Most
//         of the spills are the managers', 40 instructions are in prep.
#include <atomic>

#include "ops/linear_attn/linear_attn_sm90_prefill.cuh"

#include "ops/linear_attn/linear_attn_sm90_kernels.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int64_t kLittle = 2048;  // records

template <class B>
__global__ void __cluster_dims__(kParts, 1, 1) __launch_bounds__(kPrefillThreads, 1)
    prefill_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, int n_slots, int n_wanted) {
  run_prefill<B, ScanArgs>(a, w, n_slots, n_wanted);
}

}  // namespace

PrefillKernel plain_prefill_kernel(KdaGate gate) {
  return gate == KdaGate::softplus ? prefill_kernel<Build<KdaGate::softplus, __nv_bfloat16, true>>
                                   : prefill_kernel<Build<KdaGate::lower_bound, __nv_bfloat16, true>>;
}

cudaError_t launch_prefill(const KdaPrefillSm90& args, void* workspace, Schedule schedule, int n_lanes,
                           cudaStream_t stream) {
  const KdaPrefillSm90 a = with_defaults(args);
  if (const cudaError_t e = refusal_of_width(a.head_dim)) return e;
  if (!is_valid(a)) return cudaErrorInvalidValue;
  if (schedule == Schedule::cut) return launch_segments(a, workspace, n_lanes, stream);
  const PrefillKernel kernel = has_plain_states(a) ? kernels_of(a).prefill : states_kernel(a, schedule);
  if (!kernel) return cudaErrorNotSupported;
  return launch_grid(kernel, a, workspace, schedule, n_lanes, stream);
}

// Clusters of the grid that the device holds at once. GPUs whose clusters of SMs (GPCs) are of odd sizes hold fewer than half their SMs. A property
// of the device and of what all these kernels take, a whole SM a CTA: asked once a device.
static cudaError_t resident_clusters(PrefillKernel kernel, int& n_clusters) {
  constexpr int kMaxDevices = 64;
  static std::atomic<int> known[kMaxDevices];
  int device;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  n_clusters = device < kMaxDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (n_clusters > 0) return cudaSuccess;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(kMaxLanes * kParts);
  config.blockDim = dim3(kPrefillThreads);
  config.dynamicSmemBytes = kPrefillSmemBytes;
  if (const cudaError_t e = cudaOccupancyMaxActiveClusters(&n_clusters, kernel, &config)) return e;
  if (n_clusters == 0) return cudaErrorInvalidConfiguration;
  if (device < kMaxDevices) known[device].store(n_clusters, std::memory_order_relaxed);
  return cudaSuccess;
}

cudaError_t launch_grid(PrefillKernel kernel, const KdaPrefillSm90& a, void* workspace, Schedule schedule, int n_lanes,
                        cudaStream_t stream) {
  const int64_t n_slots = first_slot(a.n_tokens, a.n_sequences);
  if (n_slots * a.n_heads > 0x7fffffff) return cudaErrorInvalidValue;
  if (const cudaError_t e =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kPrefillSmemBytes))
    return e;
  int n_clusters;
  if (const cudaError_t e = resident_clusters(kernel, n_clusters)) return e;
  n_clusters = std::min(n_clusters, kMaxLanes);
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
  config.blockDim = dim3(kPrefillThreads);
  config.dynamicSmemBytes = kPrefillSmemBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = !in_turn || a.n_tokens > 0;  // without tokens there was no prep
  return cudaLaunchKernelEx(&config, kernel, a, w, static_cast<int>(n_slots), n_lanes);
}

// Few chains leave most of the GPU to prep, which had better run beside the scans; many fill all clusters with scans; and little work is
// done before a pipeline of both has filled. Records of all chunks at once take memory: beyond 2 GiB together, too, at some cost.
static Schedule schedule_of_whole_chains(int64_t n_records, int64_t n_chains) {
  constexpr int64_t kManyChains = 48;
  return n_chains >= kManyChains || n_records < kLittle ? Schedule::in_turn : Schedule::together;
}

// Whether chains had better be cut, in steps of a chunk (1.12 us). Whole chains take at least the steps of a chain of mean length (lengths
// are not known), and prep's time before it where in turn (148 us for 4096 records: 1/31 step each). Cut, each of 64 lanes' steps come three
// times (M and S0 of a lane are two clusters, twice what an H200 holds at once; then the outputs), and prep; then the launches, the states of
// each pass, some 18 us; and the states one after the other, 0.8 us for each of a chain's lanes. Computed, not measured: hence the margin of a third.
static bool worth_cutting(int64_t n_records, int64_t n_chains) {
  constexpr int64_t kPrepPerStep = 31, kFixed = 16, kOfChain = 46;
  const int64_t prep = n_records / kPrepPerStep, lane = (n_records + kSegmentLanes - 1) / kSegmentLanes;
  const int64_t whole = n_records / n_chains + (n_records < kLittle ? prep : 0);
  const int64_t cut = 3 * lane + prep + kFixed + kOfChain / n_chains;
  return cut + cut / 3 < whole;
}

Schedule choose_schedule(int64_t n_tokens, int n_sequences, int n_heads, bool whole_chains) {
  constexpr int64_t kMostRecords = (2ll << 30) / sizeof(Record);
  const int64_t n_records = first_slot(n_tokens, n_sequences) * n_heads;
  const int64_t n_chains = static_cast<int64_t>(n_sequences) * n_heads;
  if (n_chains == 0 || n_records > kMostRecords) return Schedule::together;
  if (!whole_chains && worth_cutting(n_records, n_chains)) return Schedule::cut;
  return schedule_of_whole_chains(n_records, n_chains);
}

size_t workspace_bytes(int64_t n_tokens, int n_sequences, int n_heads, Schedule schedule) {
  if (schedule == Schedule::together) return kFixedBytes + static_cast<int64_t>(kMaxTogether) * kRing * sizeof(Record);
  const size_t records = first_slot(n_tokens, n_sequences) * n_heads * sizeof(Record);
  return kFixedBytes + records + (schedule == Schedule::cut ? kSegmentBytes : 0);
}

}  // namespace linnet::ops::sm90

namespace linnet::ops {

namespace {

// Of a call whose chains may be cut, or not.
sm90::Schedule schedule_of(const KdaPrefillSm90& args, bool whole_chains) {
  const auto schedule = sm90::choose_schedule(args.n_tokens, args.n_sequences, args.n_heads, whole_chains);
  const bool together = schedule == sm90::Schedule::together;
  return together && !sm90::runs_together(sm90::with_defaults(args)) ? sm90::Schedule::in_turn : schedule;
}

}  // namespace

size_t kda_prefill_sm90_workspace_bytes(const KdaPrefillSm90& args) noexcept {
  size_t bytes = 0;
  for (const bool whole_chains : {false, true})
    bytes = std::max(
        bytes, sm90::workspace_bytes(args.n_tokens, args.n_sequences, args.n_heads, schedule_of(args, whole_chains)));
  return bytes;
}

int kda_prefill_sm90(const KdaPrefillSm90& args, void* workspace, CUstream_st* stream) noexcept {
  if (const cudaError_t e = sm90::refusal_of_width(args.head_dim)) return e;
  if (args.n_sequences == 0 || args.n_heads == 0) return cudaSuccess;
  return sm90::launch_prefill(args, workspace, schedule_of(args, args.whole_chains || args.checkpoints), 0, stream);
}

}  // namespace linnet::ops
