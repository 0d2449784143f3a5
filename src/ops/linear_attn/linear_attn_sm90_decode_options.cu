// Builds of the KDA decode step on Hopper with bf16 states, heads of 64, a gate of a whole head or SiLU of the output gate; see
// linear_attn_sm90_decode.cu.
#include "ops/linear_attn/linear_attn_sm90_decode_kernel.cuh"

namespace linnet::ops::sm90::step {
namespace {

template <KdaGate kGate, int kD>
cudaError_t launch(const KdaDecodeSm90& a, cudaStream_t stream) {
  return a.state_type == KdaStateType::bf16 ? launch_decode<kGate, kD, __nv_bfloat16, false>(a, stream)
                                            : launch_decode<kGate, kD, float, false>(a, stream);
}
template <KdaGate kGate>
cudaError_t launch(const KdaDecodeSm90& a, cudaStream_t stream) {
  return a.head_dim == 64 ? launch<kGate, 64>(a, stream) : launch<kGate, 128>(a, stream);
}

}  // namespace

cudaError_t launch_decode_options(const KdaDecodeSm90& a, cudaStream_t stream) {
  switch (a.gate.gate) {
    case KdaGate::softplus: return launch<KdaGate::softplus>(a, stream);
    case KdaGate::lower_bound: return launch<KdaGate::lower_bound>(a, stream);
    default: return launch<KdaGate::head_softplus>(a, stream);
  }
}

}  // namespace linnet::ops::sm90::step
