// Builds of KDA verify and commit on Hopper with bf16 states, heads of 64, a gate of a whole head or SiLU of the output gate; see
// linear_attn_sm90_verify.cu.
#include "ops/linear_attn/linear_attn_sm90_verify_kernel.cuh"

namespace linnet::ops::sm90::step {
namespace {

template <KdaGate kGate, int kD>
cudaError_t verify(const KdaVerifySm90& a, cudaStream_t stream) {
  return a.state_type == KdaStateType::bf16 ? launch_verify<kGate, kD, __nv_bfloat16, false>(a, stream)
                                            : launch_verify<kGate, kD, float, false>(a, stream);
}
template <KdaGate kGate>
cudaError_t verify(const KdaVerifySm90& a, cudaStream_t stream) {
  return a.head_dim == 64 ? verify<kGate, 64>(a, stream) : verify<kGate, 128>(a, stream);
}
template <int kD>
cudaError_t commit(const KdaCommitSm90& a, cudaStream_t stream) {
  return a.state_type == KdaStateType::bf16 ? launch_commit<DecodeShape<kD, __nv_bfloat16>>(a, stream)
                                            : launch_commit<DecodeShape<kD, float>>(a, stream);
}

}  // namespace

cudaError_t launch_verify_options(const KdaVerifySm90& a, cudaStream_t stream) {
  switch (a.gate.gate) {
    case KdaGate::softplus: return verify<KdaGate::softplus>(a, stream);
    case KdaGate::lower_bound: return verify<KdaGate::lower_bound>(a, stream);
    default: return verify<KdaGate::head_softplus>(a, stream);
  }
}

cudaError_t launch_commit_options(const KdaCommitSm90& a, cudaStream_t stream) {
  return a.head_dim == 64 ? commit<64>(a, stream) : commit<128>(a, stream);
}

}  // namespace linnet::ops::sm90::step
