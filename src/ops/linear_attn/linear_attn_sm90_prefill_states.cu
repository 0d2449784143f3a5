// kda_sm90 prefill with states in another layout or type than the plain kernel's, or with checkpoints. The rest is linear_attn_sm90_prefill.cu's.
// Registers 128, spills 200, stack 40.
#include "ops/linear_attn/linear_attn_sm90_kernels.cuh"
#include "ops/linear_attn/linear_attn_sm90_prefill.cuh"
#include "ops/linear_attn/linear_attn_sm90_states.cuh"

namespace linnet::ops::sm90 {
namespace {

template <class B, bool kCheckpoints>
__global__ void __cluster_dims__(kParts, 1, 1) __launch_bounds__(kPrefillThreads, 1)
    prefill_states_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, int n_slots, int n_wanted) {
  run_prefill<B, StateScan<kCheckpoints>>(a, w, n_slots, n_wanted);
}

template <KdaGate kGate>
PrefillKernel kernel_of(bool checkpoints) {
  using B = Build<kGate, __nv_bfloat16, true>;
  return checkpoints ? prefill_states_kernel<B, true> : prefill_states_kernel<B, false>;
}

}  // namespace

PrefillKernel states_kernel(const KdaPrefillSm90& a) {
  const bool checkpoints = a.checkpoints != nullptr;
  return a.gate.gate == KdaGate::softplus ? kernel_of<KdaGate::softplus>(checkpoints)
                                          : kernel_of<KdaGate::lower_bound>(checkpoints);
}

}  // namespace linnet::ops::sm90
