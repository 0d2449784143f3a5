// kda_sm90 prep as a kernel of its own: one workgroup per (record slot, head).
// Registers 168, spills 8, stack 8 (KdaGate::lower_bound; none with softplus).
#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/linear_attn/linear_attn_sm90_prep.cuh"

namespace linnet::ops::sm90 {
namespace {

constexpr int kWorkgroupsPerSm = 3;
constexpr int kApart = 4000;    // cycles
constexpr int kWavesApart = 2;  // at least, else the wait at the start is not won back

// Workgroups that start together load together and then compute together, and wait the longer for their rows: the second and the third of
// each of n_sms SMs start later, when n_sms is not 0.
template <KdaGate kGate>
__global__ void __launch_bounds__(prep::kThreads, kWorkgroupsPerSm)
    prep_kernel(const __grid_constant__ KdaPrefillSm90 a, Record* records, unsigned n_sms) {
  extern __shared__ __align__(128) char smem_bytes[];
  auto& s = *reinterpret_cast<prep::Smem*>(smem_bytes);
  launch_dependents();
  if (blockIdx.x < kWorkgroupsPerSm * n_sms) {
    const long long start = clock64(), wait = blockIdx.x / n_sms * kApart;
    while (clock64() - start < wait) __nanosleep(200);
  }
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
  int device, n_sms;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  if (const cudaError_t e = cudaDeviceGetAttribute(&n_sms, cudaDevAttrMultiProcessorCount, device)) return e;
  const int64_t n_records = n_slots * a.n_heads;
  const bool apart = n_records >= kWavesApart * kWorkgroupsPerSm * n_sms;
  kernel<<<static_cast<unsigned>(n_records), prep::kThreads, sizeof(prep::Smem), stream>>>(a, records,
                                                                                           apart ? n_sms : 0);
  return cudaGetLastError();
}

}  // namespace linnet::ops::sm90
