// What the two ways of the simd variant share: constants of the partition, sizes, entry points. Private to this folder.
#pragma once

#include <algorithm>

#include "ops/mla/mla.h"

namespace linnet::ops {

// Softmax advances by blocks of keys at multiples of kMlaBlock of the absolute position, so a query's arithmetic does
// not depend on what else stands in the call, and a block of keys lies in one block of the cache.

// Row j of a cache of rows of `width`; rows up to the next multiple of kMlaBlock follow it.
template <class T>
const T* cache_row(const std::byte* const* blocks, int64_t j, int64_t width) {
  return reinterpret_cast<const T*>(blocks[j / kMlaBlock]) + j % kMlaBlock * width;
}

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Bytes of n floats taken from a Workspace.
constexpr size_t float_bytes(int64_t n) { return aligned_size(static_cast<size_t>(n) * sizeof(float)); }

// Tokens [begin, end) of the packed call: whole or partial sequences, all to be done the absorbed way.
void mla_absorbed(const MlaArgs& args, int64_t begin, int64_t end, const Exec& exec) noexcept;
size_t mla_absorbed_workspace(const MlaArgs& args, int n_threads);

// All tokens of sequences [first, end).
void mla_expanded(const MlaArgs& args, int64_t first, int64_t end, const Exec& exec) noexcept;
size_t mla_expanded_workspace(const MlaArgs& args, int n_threads);

}  // namespace linnet::ops
