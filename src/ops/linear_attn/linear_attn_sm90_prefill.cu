// kda_sm90 prefill: the launches, and the plain builds of the grid of linear_attn_sm90_prefill.cuh.
// prepare_kernel: registers 128, spills 68, stack 24: at the launch; then workgroups 160, managers 32. Most of the spills are the managers'.
// together_kernel: registers 128, spills 600, stack 104: likewise; and consumers 208, the warps that serve them 72. No spill is in the consumers' loop over chunks.
#include "ops/linear_attn/linear_attn_sm90_prefill.cuh"

#include "ops/linear_attn/linear_attn_sm90_kernels.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int64_t kLittle = 2048;  // records

template <class B>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    prepare_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, int n_slots, int n_wanted) {
  prepare_beside<B>(a, w, n_slots, n_wanted);
}

template <class B>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    together_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, int n_slots, int n_wanted) {
  scan_or_prepare<B, ScanArgs>(a, w, n_slots, n_wanted);
}

template <KdaGate kGate>
Kernels kernels_of_gate() {
  using B = Build<kGate, __nv_bfloat16, true>;
  return {plain_prep_kernel(kGate), prepare_kernel<B>, together_kernel<B>};
}

struct Grid {
  PrefillKernel kernel;
  int n_ctas, n_threads, smem_bytes;
  cudaLaunchAttributeID attribute;  // cudaLaunchAttributeIgnore: none
};

cudaError_t launch(const Grid& g, const KdaPrefillSm90& a, const Workspace& w, int n_slots, int n_lanes,
                   cudaStream_t stream) {
  if (const cudaError_t e = cudaFuncSetAttribute(g.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, g.smem_bytes))
    return e;
  cudaLaunchAttribute attribute = {};
  attribute.id = g.attribute;
  if (g.attribute == cudaLaunchAttributeCooperative) attribute.val.cooperative = 1;
  if (g.attribute == cudaLaunchAttributeProgrammaticStreamSerialization)
    attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(g.n_ctas);
  config.blockDim = dim3(g.n_threads);
  config.dynamicSmemBytes = g.smem_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = g.attribute != cudaLaunchAttributeIgnore;
  return cudaLaunchKernelEx(&config, g.kernel, a, w, n_slots, n_lanes);
}

Flow flow_of(Schedule schedule) {
  return schedule == Schedule::together ? Flow::ring : schedule == Schedule::beside ? Flow::beside : Flow::in_turn;
}

}  // namespace

Kernels plain_kernels(KdaGate gate) {
  return gate == KdaGate::softplus ? kernels_of_gate<KdaGate::softplus>() : kernels_of_gate<KdaGate::lower_bound>();
}

cudaError_t launch_prefill(const KdaPrefillSm90& args, void* workspace, Schedule schedule, int n_lanes,
                           cudaStream_t stream) {
  const KdaPrefillSm90 a = with_defaults(args);
  if (const cudaError_t e = refusal_of_width(a.head_dim)) return e;
  if (!is_valid(a)) return cudaErrorInvalidValue;
  if (schedule == Schedule::cut) return launch_segments(a, workspace, n_lanes, stream);
  if (schedule == Schedule::together && !has_plain_states(a)) return cudaErrorNotSupported;
  const int64_t n_slots = first_slot(a.n_tokens, a.n_sequences), n_positions = n_slots * a.n_heads;
  if (n_positions > 0x7fffffff) return cudaErrorInvalidValue;
  int device, n_ctas;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  if (const cudaError_t e = cudaDeviceGetAttribute(&n_ctas, cudaDevAttrMultiProcessorCount, device)) return e;
  n_ctas = std::min(n_ctas, kMaxLanes);  // one an SM
  const Flow flow = flow_of(schedule);
  if (n_lanes == 0) n_lanes = flow == Flow::in_turn ? n_ctas : n_ctas / 4;
  n_lanes = std::min(n_lanes, flow == Flow::in_turn ? n_ctas : flow == Flow::ring ? kMaxTogether : n_ctas - 1);
  const Workspace w = workspace_at(workspace, flow, n_positions);
  const int64_t n_flags = kFlagInts + (flow == Flow::beside ? step_flags(n_positions) : 0);
  if (const cudaError_t e = cudaMemsetAsync(w.next_item, 0, n_flags * sizeof(int32_t), stream)) return e;
  const auto run = [&](const Grid& g) { return launch(g, a, w, static_cast<int>(n_slots), n_lanes, stream); };
  const Kernels kernels = kernels_of(a);
  if (flow == Flow::ring)
    return run({kernels.together, n_ctas, kPrefillThreads, kPrefillSmemBytes, cudaLaunchAttributeCooperative});
  cudaError_t e = cudaSuccess;
  if (a.n_tokens > 0)
    e = flow == Flow::in_turn
            ? launch_prep(a, w.records, n_slots, stream)
            : run({kernels.prepare, n_ctas - n_lanes, kPrefillThreads, kPrefillSmemBytes, cudaLaunchAttributeIgnore});
  if (e) return e;
  // Beside: scheduled when all of prep runs. In turn: while it drains. Without tokens there is no prep.
  return run({scan_kernel(a), n_lanes, kScanThreads, kScanSmemBytes,
              a.n_tokens > 0 ? cudaLaunchAttributeProgrammaticStreamSerialization : cudaLaunchAttributeIgnore});
}

// Little work is done before a pipeline of both has filled.
static Schedule schedule_of_whole_chains(int64_t n_records) {
  return n_records < kLittle ? Schedule::in_turn : Schedule::beside;
}

// Whether chains had better be cut, in steps of a chunk (assumed: 1.4 us). Whole chains take at least the steps of a chain of mean length (lengths
// are not known), and prep's time before it where in turn (148 us for 4096 records: 1/39 step each). Cut, each of 64 lanes' steps come twice
// (M and S0 of a lane are two CTAs, which nearly fill an H200; then the outputs), and prep; then the launches, the states of
// each pass, some 18 us; and the states one after the other, 0.8 us for each of a chain's lanes. Computed, not measured: hence the margin of a third.
static bool worth_cutting(int64_t n_records, int64_t n_chains) {
  constexpr int64_t kPrepPerStep = 39, kFixed = 13, kOfChain = 37;
  const int64_t prep = n_records / kPrepPerStep, lane = (n_records + kSegmentLanes - 1) / kSegmentLanes;
  const int64_t whole = n_records / n_chains + (n_records < kLittle ? prep : 0);
  const int64_t cut = 2 * lane + prep + kFixed + kOfChain / n_chains;
  return cut + cut / 3 < whole;
}

Schedule choose_schedule(int64_t n_tokens, int n_sequences, int n_heads, bool whole_chains) {
  constexpr int64_t kMostRecords = (3ll << 30) / sizeof(Record);
  const int64_t n_records = first_slot(n_tokens, n_sequences) * n_heads;
  const int64_t n_chains = static_cast<int64_t>(n_sequences) * n_heads;
  if (n_chains == 0 || n_records > kMostRecords) return Schedule::together;
  if (!whole_chains && worth_cutting(n_records, n_chains)) return Schedule::cut;
  return schedule_of_whole_chains(n_records);
}

size_t workspace_bytes(int64_t n_tokens, int n_sequences, int n_heads, Schedule schedule) {
  if (schedule == Schedule::together) return kFixedBytes + static_cast<int64_t>(kMaxTogether) * kRing * sizeof(Record);
  const size_t records = first_slot(n_tokens, n_sequences) * n_heads * sizeof(Record);
  const size_t flags = step_flags(first_slot(n_tokens, n_sequences) * n_heads) * sizeof(int32_t);
  return kFixedBytes + records + (schedule == Schedule::cut ? kSegmentBytes : schedule == Schedule::beside ? flags : 0);
}

}  // namespace linnet::ops::sm90

namespace linnet::ops {

namespace {

// Of a call whose chains may be cut, or not.
sm90::Schedule schedule_of(const KdaPrefillSm90& args, bool whole_chains) {
  const auto schedule = sm90::choose_schedule(args.n_tokens, args.n_sequences, args.n_heads, whole_chains);
  return schedule == sm90::Schedule::together && !sm90::has_plain_states(args) ? sm90::Schedule::beside : schedule;
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
