// kda_sm90 prefill: the launches, and the plain builds of the grid of linear_attn_sm90_prefill.cuh.
// prepare_kernel: registers 72, spills 240, stack 56: at the launch; then workgroups 80, managers 24, whose spills they are.
#include <algorithm>

#include "ops/linear_attn/linear_attn_sm90_prefill.cuh"

#include "ops/linear_attn/linear_attn_sm90_kernels.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int64_t kLittle = 2048;  // records
constexpr int64_t kLong = 16;      // records of a chain

template <class B>
__global__ void __launch_bounds__(kPrepareThreads, 1)
    prepare_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, int n_slots, int n_wanted) {
  prepare_beside<B>(a, w, n_slots, n_wanted);
}

// Clears flags, while prep's grid starts.
__global__ void __launch_bounds__(256) clear_kernel(int32_t* flags, int64_t n) {
  launch_dependents();
  for (int64_t i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) flags[i] = 0;
}

template <KdaGate kGate>
Kernels kernels_of_gate() {
  using B = Build<kGate, __nv_bfloat16, true>;
  return {plain_prep_kernel(kGate), prepare_kernel<B>};
}

// beside_last: scheduled when all CTAs of the grid before it run (or, in turn, have run for a while), not when they have ended.
struct Grid {
  PrefillKernel kernel;
  int n_ctas, n_threads, smem_bytes;
  bool beside_last;
};

cudaError_t launch(const Grid& g, const KdaPrefillSm90& a, const Workspace& w, int n_slots, int n_lanes,
                   cudaStream_t stream) {
  if (const cudaError_t e = cudaFuncSetAttribute(g.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, g.smem_bytes))
    return e;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(g.n_ctas);
  config.blockDim = dim3(g.n_threads);
  config.dynamicSmemBytes = g.smem_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = g.beside_last;
  return cudaLaunchKernelEx(&config, g.kernel, a, w, n_slots, n_lanes);
}

constexpr int64_t kMostRecords = (9ll << 28) / sizeof(Record);  // that memory is to hold at once: 2.25 GiB

int count_windows(int64_t n_positions) {
  return static_cast<int>(std::max<int64_t>(1, (n_positions + kMostRecords - 1) / kMostRecords));
}

// One SM a CTA.
cudaError_t count_ctas(int& n_ctas) {
  int device;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  if (const cudaError_t e = cudaDeviceGetAttribute(&n_ctas, cudaDevAttrMultiProcessorCount, device)) return e;
  n_ctas = std::min(n_ctas, kMaxLanes);
  return cudaSuccess;
}

// Of these SMs for the lanes, measured with 132: prep and the lanes then end together.
int beside_lanes(int n_ctas) { return n_ctas * 3 / 8; }
int split_lanes(int n_ctas) { return n_ctas * 8 / 35; }
constexpr int kFewChains = 48;  // that leave lanes without work, beside

// scan: of n_lanes.
cudaError_t launch_beside(const KdaPrefillSm90& a, Workspace w, int n_slots, int n_ctas, const Grid& scan, int n_lanes,
                          cudaStream_t stream) {
  const int64_t n_flags = kFlagInts + step_flags(static_cast<int64_t>(n_slots) * a.n_heads);
  for (; w.window < w.n_windows; w.window++) {
    const int64_t n_zeros = w.window == 0 ? n_flags : 1;  // the next item's number, later
    const unsigned n_clearing = static_cast<unsigned>(std::min<int64_t>((n_zeros + 1023) / 1024, 64));
    if (const cudaError_t e = launch_grid(clear_kernel, dim3(n_clearing), 256, 0, stream, w.next_item, n_zeros))
      return e;
    const Grid prepare{kernels_of(a).prepare, n_ctas - scan.n_ctas, kPrepareThreads, kPrepareSmemBytes, true};
    for (const Grid* g : {&prepare, &scan})
      if (const cudaError_t e = launch(*g, a, w, n_slots, n_lanes, stream)) return e;
  }
  return cudaSuccess;
}

cudaError_t launch_in_turn(const KdaPrefillSm90& a, const Workspace& w, int n_slots, int n_lanes, cudaStream_t stream) {
  if (const cudaError_t e = cudaMemsetAsync(w.next_item, 0, kFlagInts * sizeof(int32_t), stream)) return e;
  const bool prepares = a.n_tokens > 0;
  if (prepares)
    if (const cudaError_t e = launch_prep(a, w.records, n_slots, stream)) return e;
  return launch({scan_kernel(a), n_lanes, kScanThreads<ScanArgs>, kScanSmemBytes, prepares}, a, w, n_slots, n_lanes,
                stream);
}

}  // namespace

Kernels plain_kernels(KdaGate gate) {
  return gate == KdaGate::softplus ? kernels_of_gate<KdaGate::softplus>() : kernels_of_gate<KdaGate::lower_bound>();
}

cudaError_t launch_prefill(const KdaPrefillSm90& args, void* workspace, Schedule schedule, int n_lanes,
                           cudaStream_t stream, int n_windows) {
  const KdaPrefillSm90 a = with_defaults(args);
  if (!is_valid(a)) return cudaErrorInvalidValue;
  if (a.checkpoints && a.head_dim < kDim) return cudaErrorNotSupported;
  if (schedule == Schedule::cut) return launch_segments(a, workspace, n_lanes, stream);
  const int64_t n_slots = first_slot(a.n_tokens, a.n_sequences), n_positions = n_slots * a.n_heads;
  if (n_positions > 0x7fffffff) return cudaErrorInvalidValue;
  int n_ctas;
  if (const cudaError_t e = count_ctas(n_ctas)) return e;
  if (n_windows == 0) n_windows = count_windows(n_positions);
  if (schedule == Schedule::in_turn || a.n_tokens == 0) {
    const Workspace w = workspace_at(workspace, Flow::in_turn, n_positions, 1);
    return launch_in_turn(a, w, static_cast<int>(n_slots), n_lanes ? std::min(n_lanes, n_ctas) : n_ctas, stream);
  }
  const Workspace w = workspace_at(workspace, Flow::beside, n_positions, n_windows);
  Grid scan{scan_kernel(a), 0, kScanThreads<ScanArgs>, kScanSmemBytes, true};
  if (schedule == Schedule::split) {
    if (!has_plain_states(a)) return cudaErrorNotSupported;
    n_lanes = std::min(n_lanes ? n_lanes : split_lanes(n_ctas), (n_ctas - 1) / kParts);
    scan.kernel = split_scan_kernel(a);
    scan.n_ctas = kParts * n_lanes;
    scan.n_threads = kScanThreads<SplitScan>;
  } else {
    scan.n_ctas = n_lanes = std::min(n_lanes ? n_lanes : beside_lanes(n_ctas), n_ctas - 1);
  }
  return launch_beside(a, w, static_cast<int>(n_slots), n_ctas, scan, n_lanes, stream);
}

// Whether chains had better be cut, in steps of a chunk of a split lane (1.1 us), measured for 1 to 16 chains of 2,048 to 65,536 tokens. Whole
// chains take the steps of a chain of mean length (lengths are not known), of lanes that are not split half as much again. Cut, each of 64
// lanes' steps come twice (M and S0 of a lane are two CTAs, which nearly fill an H200; then the outputs), longer ones, and prep of all before;
// then the launches; and the states one after the other, 1.75 us for each of a chain's lanes.
static bool worth_cutting(int64_t n_records, int64_t n_chains, bool plain_states) {
  constexpr int64_t kPrepPerStep = 32, kFixed = 24, kOfChain = 102;
  const int64_t lane = (n_records + kSegmentLanes - 1) / kSegmentLanes, steps = n_records / n_chains;
  const int64_t cut = lane * 7 / 3 + n_records / kPrepPerStep + kFixed + kOfChain / n_chains;
  return cut < (plain_states ? steps : steps * 3 / 2);
}

// Little work is done before a pipeline of prep and scan has filled; long chains alone are worth it.
Schedule choose_schedule(int64_t n_tokens, int n_sequences, int n_heads, bool whole_chains, bool plain_states) {
  const int64_t n_records = first_slot(n_tokens, n_sequences) * n_heads;
  const int64_t n_chains = static_cast<int64_t>(n_sequences) * n_heads;
  const bool may_cut = !whole_chains && n_chains > 0 && n_records <= kMostRecords;
  if (may_cut && worth_cutting(n_records, n_chains, plain_states)) return Schedule::cut;
  if (plain_states && n_chains <= kFewChains && n_records >= kLong * n_chains) return Schedule::split;
  return n_records < kLittle ? Schedule::in_turn : Schedule::beside;
}

size_t workspace_bytes(int64_t n_tokens, int n_sequences, int n_heads, Schedule schedule, int n_windows) {
  const int64_t n_positions = first_slot(n_tokens, n_sequences) * n_heads;
  if (schedule == Schedule::beside || schedule == Schedule::split) {
    if (n_windows == 0) n_windows = count_windows(n_positions);
    const int64_t n_records = n_positions / n_windows + 2 * kMaxLanes + 1;  // lanes and windows round up
    return kFixedBytes + step_flags(n_positions) * sizeof(int32_t) + n_records * sizeof(Record);
  }
  return kFixedBytes + n_positions * sizeof(Record) + (schedule == Schedule::cut ? kSegmentBytes : 0);
}

}  // namespace linnet::ops::sm90

namespace linnet::ops {

size_t kda_prefill_sm90_workspace_bytes(const KdaPrefillSm90& args) noexcept {
  size_t bytes = 0;
  for (const bool whole_chains : {false, true}) {
    for (const bool plain_states : {false, true}) {
      const auto schedule =
          sm90::choose_schedule(args.n_tokens, args.n_sequences, args.n_heads, whole_chains, plain_states);
      bytes = std::max(bytes, sm90::workspace_bytes(args.n_tokens, args.n_sequences, args.n_heads, schedule));
    }
  }
  return bytes;
}

int kda_prefill_sm90(const KdaPrefillSm90& args, void* workspace, CUstream_st* stream) noexcept {
  if (args.n_sequences == 0 || args.n_heads == 0) return cudaSuccess;
  const KdaPrefillSm90 a = sm90::with_defaults(args);
  const bool is_narrow = a.head_dim < sm90::kDim;
  const bool whole_chains = args.whole_chains || args.checkpoints || is_narrow;
  const auto schedule =
      sm90::choose_schedule(args.n_tokens, args.n_sequences, args.n_heads, whole_chains, sm90::has_plain_states(a));
  return sm90::launch_prefill(args, workspace, schedule, 0, stream);
}

}  // namespace linnet::ops
