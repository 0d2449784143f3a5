// kda_sm90 prep as a kernel of its own: one workgroup per (record slot, head).
// Registers 168, spills 8, stack 8 (KdaGate::lower_bound; none with softplus).
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/linear_attn/linear_attn_sm90_prep.cuh"

namespace linnet::ops::sm90 {
namespace {

template <KdaGate kGate>
__global__ void __launch_bounds__(prep::kThreads, 3)
    prep_kernel(const __grid_constant__ KdaPrefillSm90 a, Record* records) {
  extern __shared__ __align__(128) char smem_bytes[];
  auto& s = *reinterpret_cast<prep::Smem*>(smem_bytes);
  launch_dependents();
  prep::Chunk c;
  if (!prep::locate(a, blockIdx.x, c)) return;
  const int thread = static_cast<int>(threadIdx.x);
  prep::load(a, c, s, thread);
  prep::compute<kGate>(a, c, records + blockIdx.x, s, thread, 0, [] {});
}

}  // namespace

cudaError_t launch_prep(const KdaPrefillSm90& a, Record* records, int64_t n_slots, cudaStream_t stream) {
  const auto kernel =
      a.gate.gate == KdaGate::softplus ? prep_kernel<KdaGate::softplus> : prep_kernel<KdaGate::lower_bound>;
  if (const cudaError_t e =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(prep::Smem)))
    return e;
  kernel<<<static_cast<unsigned>(n_slots * a.n_heads), prep::kThreads, sizeof(prep::Smem), stream>>>(a, records);
  return cudaGetLastError();
}

}  // namespace linnet::ops::sm90
