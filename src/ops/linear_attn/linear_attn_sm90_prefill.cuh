// kda_sm90 prefill: one persistent grid of clusters of 2 CTAs, one CTA an SM; the first n_lanes clusters carry states (scan), the
// others prepare records (prep) for them through rings that stay in the L2; or, in turn, prep's own kernel first and then all
// clusters scan. Who does what when: linear_attn_sm90_schedule.cuh. Here: what each CTA does.
//
// Scan    a warpgroup of consumers; a warp each that loads records, loads values, stores outputs.
// Prep    3 workgroups of 128 threads a CTA, each one chunk at a time, and a managing warp for each.
// Waits   a scanner for a record, a preparer for a place in the ring, a lane for the state handed over by the one before. Items are
//         taken in the order of time, so the earliest step not yet done can always go on; all CTAs are resident (cooperative launch).
#pragma once

#include <algorithm>

#include "ops/linear_attn/linear_attn_sm90_manage.cuh"
#include "ops/linear_attn/linear_attn_sm90_scan.cuh"

namespace linnet::ops::sm90 {

constexpr int kWorkgroups = 3, kPrefillThreads = (kWorkgroups + 1) * prep::kThreads;  // the last four warps manage
constexpr int kPrepBytes = (sizeof(prep::Smem) + 127) / 128 * 128;
constexpr int kPrefillSmemBytes = std::max(kScanSmemBytes, kWorkgroups* kPrepBytes);

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
  for (int s = static_cast<int>(threadIdx.x); s < a.n_sequences; s += kPrefillThreads)
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
__device__ __forceinline__ void begin_scan(uint32_t smem) {
  if (threadIdx.x == 0) {
    init_scan_barriers(smem);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster_sync();
}
// What the warps beside the consumers do: `warp` of them.
template <class Scan>
__device__ __forceinline__ void serve(const Scan& scan, uint32_t smem, int warp) {
  if (warp == 0) load_records(scan, smem);
  else if (warp == 1) store_outputs(scan, smem);
  else if (warp == 2) load_value_rows(scan, smem);
}
__device__ __forceinline__ void end_scan() {
  __syncwarp();
  cluster_sync();  // neither CTA leaves while the other may still write here
}

// One CTA of the grid. B: a Build or ScanOnly; Scan: what its states are (ScanArgs or derived from it).
template <class B, class Scan>
__device__ __forceinline__ void run_prefill(const KdaPrefillSm90& a, const Workspace& w, int n_slots, int n_wanted) {
  extern __shared__ __align__(1024) char smem_bytes[];
  __shared__ Plan plan;
  __shared__ Desk desks[kWorkgroups];
  const uint32_t smem = smem_address(smem_bytes);
  make_lanes(a, n_slots, n_wanted, plan);
  const int lane = static_cast<int>(blockIdx.x) / kParts, part = static_cast<int>(blockIdx.x) % kParts;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128, warp = static_cast<int>(threadIdx.x) / 32 % 4;
  if (lane >= plan.lanes.n_lanes) {
    if constexpr (B::kPrep) {
      if (w.in_turn) return;
      if (threadIdx.x < kWorkgroups) init_desk(desks[threadIdx.x]);
      __syncthreads();
      if (warpgroup < kWorkgroups) {
        take_registers<160>();
        prepare<B>(a, desks[warpgroup], *reinterpret_cast<prep::Smem*>(smem_bytes + warpgroup * kPrepBytes));
      } else {
        give_registers<32>();
        if (warp < kWorkgroups && (threadIdx.x & 31) == 0) manage(a, w, plan.lanes, desks[warp]);
      }
    }
    return;
  }
  begin_scan(smem);
  const Scan scan{a, w, plan.lanes, lane, part};
  if (warpgroup == 0) {
    take_registers<240>();
    consume<typename B::T>(scan, smem);
  } else {
    give_registers<88>();
    if (warpgroup == 1) serve(scan, smem, warp);
  }
  end_scan();
}

}  // namespace linnet::ops::sm90
