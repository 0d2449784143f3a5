// One pass: the packed tokens of several sequences go through the model together, each continuing from its own state.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace linnet::model {

constexpr int kMaxStateTensors = 4;  // per layer

// A mixer declares the state it keeps for one sequence; the runtime allocates, copies and saves it by this description alone.
enum class Lifetime : uint8_t {
  per_token,     // one row of `shape` for each token so far: can be cut at any position
  per_sequence,  // one tensor of `shape`: can only be copied, replayed or dropped
};
struct StateSpec {
  const char* name;
  DType dtype;
  std::vector<int64_t> shape;
  Lifetime lifetime;

  int64_t bytes() const {  // of one row, or of the whole tensor
    int64_t n = size_of(dtype);
    for (int64_t d : shape) n *= d;
    return n;
  }
};

// Rows of a per-token tensor lie in blocks of so many, which may lie anywhere and which sequences that begin alike share.
constexpr int64_t kStateBlock = 64;

// Memory of one state tensor of one sequence: `data` of a per-sequence tensor, `blocks` of a per-token one.
struct StateMemory {
  std::byte* data = nullptr;
  std::byte* const* blocks = nullptr;  // row j is row j % kStateBlock of blocks[j / kStateBlock]

  std::byte* row(int64_t j, int64_t row_bytes) const { return blocks[j / kStateBlock] + j % kStateBlock * row_bytes; }
};

// Of one layer, in the order of the mixer's specs. A per-token tensor has room for the rows of the pass; the mixer writes rows
// [n_past, n_past + n_new) and changes no other.
using LayerState = std::array<StateMemory, kMaxStateTensors>;

// What a training pass keeps for its backward: all activations, or the input of each layer, whose forward then runs again.
enum class Recompute : uint8_t { none, layer };

// What kind of pass it is. Operators that could choose among kernels by the number of rows or by cost are told by it which to take, so that
// within a kind no bit of a sequence depends on what else is in the pass or, for prompts cut at multiples of kPassChunk of their
// positions, on how they are cut.
enum class Step : uint8_t {
  cheapest,  // kernels by cost: training
  prefill,   // tokens of prompts: tiles, attention by blocks of positions, the recurrence in chunks
  decode,    // sampled tokens: dot products, absorbed attention, the recurrence step by step. Cut anywhere
};
constexpr int64_t kPassChunk = 64;

struct Pass {
  Step step = Step::cheapest;
  ConstTensor ids;                       // [N] i32
  ConstTensor seq_start;                 // [B + 1] i32 packed offsets; equal neighbours = a sequence without new tokens
  std::span<const int64_t> n_past;       // [B] tokens already in each state
  std::span<const LayerState> states;    // [n_layers * B], layer-major
  std::span<const int32_t> output_rows;  // packed tokens whose outputs are wanted, ascending
  Tensor output;  // [output_rows.size(), C] f32: their stream after the final norm, the head's input

  // Training passes only. Every sequence starts here (n_past == 0): before each layer its per-sequence states are set from
  // `initial`, or to zero when that is empty, so that layers may share the memory behind `states`. Per-token state is not used.
  std::span<const LayerState> initial;  // [n_layers * B], layer-major; per-sequence tensors only
  ConstTensor attention_start;  // [B' + 1] i32: packed offsets between which full attention sees; absent: seq_start

  int64_t n_tokens() const { return ids[0]; }
  int64_t n_seqs() const { return seq_start[0] - 1; }
  std::span<const LayerState> layer_states(int64_t layer) const {
    return states.subspan(static_cast<size_t>(layer * n_seqs()), static_cast<size_t>(n_seqs()));
  }
  const ConstTensor& attention_bounds() const { return attention_start ? attention_start : seq_start; }
  std::span<const LayerState> layer_initial(int64_t layer) const {
    if (initial.empty()) return {};
    return initial.subspan(static_cast<size_t>(layer * n_seqs()), static_cast<size_t>(n_seqs()));
  }
};

}  // namespace linnet::model
