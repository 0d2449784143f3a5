// kda_sm90 prefill: CTAs that carry states over records (scan) and CTAs that prepare those (prep), one an SM. Who does what when, and what
// waits for what: linear_attn_sm90_schedule.cuh. Here: what each CTA does.
//
// Scan    a lane, or half of one: a warpgroup of consumers for each half of the value columns; a warp each that loads records, loads values,
//         stores outputs.
// Prep    3 workgroups of 256 threads a CTA, each one chunk at a time, and a managing warp for each.
// Items are taken in the order of time, so the earliest step not yet done can always go on.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_manage.cuh"
#include "ops/linear_attn/linear_attn_sm90_scan.cuh"

namespace linnet::ops::sm90 {

constexpr int kWorkgroups = 3, kPrepareThreads = kWorkgroups * prep::kThreads + 128;  // the last four warps manage
constexpr int kPrepBytes = sizeof(prep::Smem);
constexpr int kPrepareSmemBytes = kWorkgroups * kPrepBytes;

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
  for (int s = static_cast<int>(threadIdx.x); s < a.n_sequences; s += static_cast<int>(blockDim.x))
    mine = max(mine, static_cast<int>(first_slot(start[s + 1], s + 1) - first_slot(start[s], s)));
  if (mine > 1) atomicMax(&plan.longest, mine);
  __syncthreads();
  if (threadIdx.x == 0) {
    const int n_positions = n_slots * a.n_heads;
    plan.lanes = {min(n_wanted, n_positions / plan.longest), n_slots, n_positions};
  }
  __syncthreads();
}

// The scanning roles' barriers, before any of them starts.
template <class Scan>
__device__ __forceinline__ void begin_scan(uint32_t smem) {
  if (threadIdx.x == 0) {
    init_scan_barriers<Scan>(smem);
    fence_barrier_init();
  }
  __syncthreads();
}
// What the warps beside the consumers do: `warp` of them.
template <class Scan>
__device__ __forceinline__ void serve(const Scan& scan, uint32_t smem, int warp) {
  if (warp == 0) load_records(scan, smem);
  else if (warp == 1) store_outputs(scan, smem);
  else if (warp == 2) load_value_rows(scan, smem);
}

// A lane, or its half.
template <class T, class Scan>
__device__ __forceinline__ void run_scan(const KdaPrefillSm90& a, const Workspace& w, const Lanes& lanes,
                                         uint32_t smem) {
  constexpr bool kIsSplit = Scan::kGroups < kParts;
  begin_scan<Scan>(smem);
  const int warpgroup = static_cast<int>(threadIdx.x) / kConsumers, cta = static_cast<int>(blockIdx.x);
  const Scan scan{a, w, lanes, kIsSplit ? cta / kParts : cta, kIsSplit ? cta % kParts : warpgroup};
  if (warpgroup < Scan::kGroups) {
    if constexpr (!kIsSplit) take_registers<kConsumerRegisters>();
    consume<T>(scan, smem);
  } else {
    if constexpr (!kIsSplit) give_registers<kServantRegisters>();
    serve(scan, smem, static_cast<int>(threadIdx.x) / 32 % 4);
  }
}

// A CTA that prepares. B: the Build.
template <class B>
__device__ __forceinline__ void run_prep(const KdaPrefillSm90& a, const Workspace& w, const Lanes& lanes,
                                         char* smem_bytes) {
  LINNET_SHARED(desks, Desk[kWorkgroups]);
  const auto smem_of = [&](int i) -> prep::Smem& {
    return *reinterpret_cast<prep::Smem*>(smem_bytes + i * kPrepBytes);
  };
  if (threadIdx.x < kWorkgroups) {
    init_desk(desks[threadIdx.x]);
    prep::init_barriers(smem_of(static_cast<int>(threadIdx.x)));
  }
  __syncthreads();
  const int workgroup =
      __shfl_sync(~0u, static_cast<int>(threadIdx.x) / prep::kThreads, 0);  // one number, to the compiler
  if (workgroup < kWorkgroups) {
    take_registers<80>();
    prepare<B>(a, desks[workgroup], smem_of(workgroup));
  } else {
    give_registers<24>();
    const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
    if (warp < kWorkgroups && (threadIdx.x & 31) == 0) manage(a, w, lanes, desks[warp]);
  }
}

// Grids. n_wanted: of lanes.
template <class B>
__device__ __forceinline__ void prepare_beside(const KdaPrefillSm90& a, const Workspace& w, int n_slots, int n_wanted) {
  LINNET_DYNAMIC_SHARED(smem_bytes, 1024);
  LINNET_SHARED(plan, Plan);
  make_lanes(a, n_slots, n_wanted, plan);
  wait_for_dependency();  // flags are cleared
  launch_dependents();
  run_prep<B>(a, w, plan.lanes, smem_bytes);
}
template <class T, class Scan>
__device__ __forceinline__ void scan_lanes(const KdaPrefillSm90& a, const Workspace& w, int n_slots, int n_wanted) {
  LINNET_DYNAMIC_SHARED(smem_bytes, 1024);
  LINNET_SHARED(plan, Plan);
  make_lanes(a, n_slots, n_wanted, plan);
  constexpr int kCtas = kParts / Scan::kGroups;  // a lane
  if (static_cast<int>(blockIdx.x) < kCtas * plan.lanes.n_lanes)
    run_scan<T, Scan>(a, w, plan.lanes, smem_address(smem_bytes));
}

}  // namespace linnet::ops::sm90
