// kda_sm90 scan as a kernel of its own, a CTA a lane: beside prep or after it. Plain pools of states and others, narrow
// heads, bf16 and f16 values.
// Registers 252, spills 520, stack 152: of half a lane; of a whole one 168 at the launch, then consumers 224, the warps that serve them 56. The spills
// are in those.
#include "ops/linear_attn/linear_attn_sm90_kernels.cuh"
#include "ops/linear_attn/linear_attn_sm90_prefill.cuh"
#include "ops/linear_attn/linear_attn_sm90_states.cuh"

namespace linnet::ops::sm90 {
namespace {

template <class T, class Scan>
__global__ void __launch_bounds__(kScanThreads<Scan>, 1)
    scan_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, int n_slots, int n_wanted) {
  scan_lanes<T, Scan>(a, w, n_slots, n_wanted);
}

template <class T>
PrefillKernel kernel_of(const KdaPrefillSm90& a) {
  if (has_plain_states(a)) return scan_kernel<T, ScanArgs>;
  if (a.head_dim < kDim) return scan_kernel<T, StateScan<false, true>>;
  return a.checkpoints ? scan_kernel<T, StateScan<true>> : scan_kernel<T, StateScan<false>>;
}

template <class T>
PrefillKernel split_kernel_of() {
  return scan_kernel<T, SplitScan>;
}

}  // namespace

PrefillKernel split_scan_kernel(const KdaPrefillSm90& a) {
  return a.input == KdaInput::f16 ? split_kernel_of<__half>() : split_kernel_of<__nv_bfloat16>();
}
PrefillKernel scan_kernel(const KdaPrefillSm90& a) {
  return a.input == KdaInput::f16 ? kernel_of<__half>(a) : kernel_of<__nv_bfloat16>(a);
}

}  // namespace linnet::ops::sm90
