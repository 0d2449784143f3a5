// The launches of a KDA prefill on Hopper.
#pragma once

#include "ops/linear_attn/linear_attn_sm90.cuh"

namespace linnet::ops::sm90 {

// Prepares all records: [n_slots, H].
cudaError_t launch_prep(const KdaPrefillSm90& args, Record* records, int64_t n_slots, cudaStream_t stream);
// How prep and scan share the GPU: linear_attn_sm90_schedule.cuh.
enum class Schedule { beside, split, in_turn, cut };
// whole_chains: not cut; plain_states: may be split.
Schedule choose_schedule(int64_t n_tokens, int n_sequences, int n_heads, bool whole_chains, bool plain_states);
// n_windows: pairs of grids, beside; 0: few enough that records take at most about 2.25 GiB.
size_t workspace_bytes(int64_t n_tokens, int n_sequences, int n_heads, Schedule schedule, int n_windows = 0);
// n_lanes: CTAs that scan, split: pairs of them, cut: parts of all chains; 0: a good number. cudaErrorNotSupported: checkpoints of chains that are cut or of
// narrow heads; narrow heads that are cut; states in other layouts, split.
cudaError_t launch_prefill(const KdaPrefillSm90& args, void* workspace, Schedule schedule, int n_lanes,
                           cudaStream_t stream, int n_windows = 0);

}  // namespace linnet::ops::sm90
