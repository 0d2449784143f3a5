// kda_sm90 prep as a kernel of its own: one workgroup per (record slot, head).
// Registers 80.
#include <algorithm>

#include "ops/linear_attn/linear_attn_sm90_kernels.cuh"
#include "ops/linear_attn/linear_attn_sm90_prep.cuh"

namespace linnet::ops::sm90 {
namespace {

template <class B>
__global__ void __launch_bounds__(prep::kThreads, prep::kWorkgroupsPerSm)
    prep_kernel(const __grid_constant__ KdaPrefillSm90 a, Record* records, unsigned n_sms) {
  LINNET_DYNAMIC_SHARED(smem_bytes, 1024);
  prep::prepare_one<B>(a, records, n_sms, *reinterpret_cast<prep::Smem*>(smem_bytes));
}

}  // namespace

PrepKernel plain_prep_kernel(KdaGate gate) {
  return gate == KdaGate::softplus ? prep_kernel<Build<KdaGate::softplus, __nv_bfloat16, true>>
                                   : prep_kernel<Build<KdaGate::lower_bound, __nv_bfloat16, true>>;
}

cudaError_t launch_prep(const KdaPrefillSm90& args, Record* records, int64_t n_slots, cudaStream_t stream) {
  const KdaPrefillSm90 a = with_defaults(args);
  const PrepKernel kernel = kernels_of(a).prep;
  if (const cudaError_t e =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(prep::Smem)))
    return e;
  int device, n_sms;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  if (const cudaError_t e = cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device)) return e;
  const bool apart = n_slots * a.n_heads >= prep::kWavesApart * prep::kWorkgroupsPerSm * n_sms;
  const dim3 grid(a.n_heads, static_cast<unsigned>(std::min<int64_t>(n_slots, prep::kMostSlotsY)),
                  static_cast<unsigned>((n_slots + prep::kMostSlotsY - 1) / prep::kMostSlotsY));
  return launch_grid(kernel, grid, prep::kThreads, sizeof(prep::Smem), stream, a, records, apart ? n_sms : 0);
}

}  // namespace linnet::ops::sm90
