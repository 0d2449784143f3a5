// The builds of the KDA prefill's kernels on Hopper, and which of them a call takes. Each file compiles its builds of both kernels.
#pragma once

#include "ops/linear_attn/linear_attn_sm90_launch.cuh"
#include "ops/linear_attn/linear_attn_sm90_schedule.cuh"

namespace linnet::ops::sm90 {

using PrepKernel = void (*)(KdaPrefillSm90, Record*, unsigned n_sms);
using PrefillKernel = void (*)(KdaPrefillSm90, Workspace, int n_slots, int n_wanted);
struct Kernels {
  PrepKernel prep;        // in turn
  PrefillKernel prepare;  // beside
};

PrepKernel plain_prep_kernel(KdaGate gate);  // linear_attn_sm90_prep.cu: softplus, lower_bound
Kernels plain_kernels(KdaGate gate);         // linear_attn_sm90_prefill.cu: softplus, lower_bound
Kernels bf16_kernels(KdaGate gate);          // linear_attn_sm90_prefill_bf16.cu: with options, all gates
Kernels f16_kernels(KdaGate gate);           // linear_attn_sm90_prefill_f16.cu
// linear_attn_sm90_scan.cu: all gates and options; all layouts of states, and of two CTAs a lane, for plain ones.
PrefillKernel scan_kernel(const KdaPrefillSm90& args);
PrefillKernel split_scan_kernel(const KdaPrefillSm90& args);

// Schedule::cut: linear_attn_sm90_segments.cu. Without checkpoints or narrow heads; arguments with defaults.
cudaError_t launch_segments(const KdaPrefillSm90& args, void* workspace, int n_lanes, cudaStream_t stream);

inline KdaPrefillSm90 with_defaults(KdaPrefillSm90 a) {
  if (a.n_qk_heads == 0) a.n_qk_heads = a.n_heads;
  if (a.head_dim == 0) a.head_dim = kKdaSm90Dim;
  for (int64_t* stride : {&a.qk_stride, &a.z_stride, &a.out_stride})
    if (*stride == 0) *stride = a.token_stride;
  return a;
}

// These expect what with_defaults gives.
inline bool is_valid(const KdaPrefillSm90& a) {
  const int64_t z_unit = a.gate.gate == KdaGate::log_decay ? 4 : 8;
  const bool heads = a.n_qk_heads > 0 && a.n_heads % a.n_qk_heads == 0;
  for (const int64_t stride : {a.token_stride, a.qk_stride, a.z_stride, a.out_stride})
    if (stride < 0 || stride >= 1 << 29) return false;  // bytes of two tokens are 32 bits wide in prep
  return heads && a.gate.gate <= KdaGate::head_log_decay && a.token_stride % 8 == 0 && a.qk_stride % 8 == 0 &&
         a.z_stride % z_unit == 0 && a.out_stride % 8 == 0 && a.input <= KdaInput::f16 &&
         a.state_type <= KdaStateType::bf16 && a.head_dim > 0 && a.head_dim <= kDim && a.head_dim % 8 == 0;
}
inline bool is_plain(const KdaPrefillSm90& a) {
  return a.gate.gate <= KdaGate::lower_bound && a.input == KdaInput::bf16 && a.head_dim == kDim && !a.beta_value &&
         a.normalize_qk && a.n_qk_heads == a.n_heads && a.qk_stride == a.token_stride && a.z_stride == a.token_stride;
}
inline bool has_plain_states(const KdaPrefillSm90& a) {
  return a.state_type == KdaStateType::f32 && !a.state_v_first && !a.checkpoints && a.head_dim == kDim;
}
inline Kernels kernels_of(const KdaPrefillSm90& a) {
  if (is_plain(a)) return plain_kernels(a.gate.gate);
  return a.input == KdaInput::f16 ? f16_kernels(a.gate.gate) : bf16_kernels(a.gate.gate);
}

// The build of a gate; make(B{}) gives its kernels.
template <class T, class Make>
Kernels build_of(KdaGate gate, Make make) {
  switch (gate) {
    case KdaGate::softplus: return make(Build<KdaGate::softplus, T, false>{});
    case KdaGate::lower_bound: return make(Build<KdaGate::lower_bound, T, false>{});
    case KdaGate::log_decay: return make(Build<KdaGate::log_decay, T, false>{});
    default: return make(Build<KdaGate::head_softplus, T, false>{});
  }
}

}  // namespace linnet::ops::sm90
