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

template <class B>
PrefillKernel kernel_of(bool checkpoints) {
  return checkpoints ? prefill_states_kernel<B, true> : prefill_states_kernel<B, false>;
}

}  // namespace

// In turn, one grid of each type serves all gates and options. Together, where the grid has prep, too: plain builds alone.
PrefillKernel states_kernel(const KdaPrefillSm90& a, Schedule schedule) {
  const bool checkpoints = a.checkpoints != nullptr;
  if (schedule == Schedule::in_turn)
    return a.input == KdaInput::f16 ? kernel_of<ScanOnly<__half>>(checkpoints)
                                    : kernel_of<ScanOnly<__nv_bfloat16>>(checkpoints);
  if (!is_plain(a)) return nullptr;
  return a.gate.gate == KdaGate::softplus ? kernel_of<Build<KdaGate::softplus, __nv_bfloat16, true>>(checkpoints)
                                          : kernel_of<Build<KdaGate::lower_bound, __nv_bfloat16, true>>(checkpoints);
}

}  // namespace linnet::ops::sm90
