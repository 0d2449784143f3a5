// kda_sm90 prefill: the launches, and the plain builds of the grid of linear_attn_sm90_prefill.cuh.
// Registers 128, spills 200, stack 40: at the launch; then consumers 240, their CTA's other warps 88, workgroups 160, managers 32. Most
//         of the spills are the managers', 40 instructions are in prep.
#include <atomic>

#include "ops/linear_attn/linear_attn_sm90_prefill.cuh"

#include "ops/linear_attn/linear_attn_sm90_kernels.cuh"

namespace linnet::ops::sm90 {
namespace {

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
  if (const cudaError_t e = refusal(a)) return e;
  const PrefillKernel kernel = has_plain_states(a) ? kernels_of(a).prefill : states_kernel(a);
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
