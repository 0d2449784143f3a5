// The two launches of a KDA prefill on Hopper: prep fills the records, scan carries the state over them.
#pragma once

#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90 {

cudaError_t launch_prep(const KdaPrefillSm90& args, Record* records, int64_t n_slots, cudaStream_t stream);
cudaError_t launch_scan(const KdaPrefillSm90& args, const Record* records, cudaStream_t stream);

}  // namespace linnet::ops::sm90
