// kda_sm90 prefill of bf16 inputs with options (KdaPrefillSm90), each kind of gate: prep's kernel and the persistent one.
// prep_kernel: registers 80, spills 108, stack 40 (KdaGate::head_softplus; fewer with others).
// prepare_kernel: registers 72, spills 340, stack 56: those of the managers.
#include "ops/linear_attn/linear_attn_sm90_kernels.cuh"
#include "ops/linear_attn/linear_attn_sm90_prefill.cuh"

namespace linnet::ops::sm90 {
namespace {

template <class B>
__global__ void __launch_bounds__(prep::kThreads, prep::kWorkgroupsPerSm)
    prep_kernel(const __grid_constant__ KdaPrefillSm90 a, Record* records, unsigned n_sms) {
  LINNET_DYNAMIC_SHARED(prep_bytes, 1024);
  prep::prepare_one<B>(a, records, n_sms, *reinterpret_cast<prep::Smem*>(prep_bytes));
}

template <class B>
__global__ void __launch_bounds__(kPrepareThreads, 1)
    prepare_kernel(const __grid_constant__ KdaPrefillSm90 a, const Workspace w, int n_slots, int n_wanted) {
  prepare_beside<B>(a, w, n_slots, n_wanted);
}

}  // namespace

Kernels bf16_kernels(KdaGate gate) {
  return build_of<__nv_bfloat16>(gate, []<class B>(B) -> Kernels { return {prep_kernel<B>, prepare_kernel<B>}; });
}

}  // namespace linnet::ops::sm90
