// Turns of the prompts that are being read: which of them get how many tokens of a pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace linnet::runtime {

struct Reading {
  int64_t done;  // tokens of the prompt that have been read, a multiple of model::kPassChunk
  int64_t
      stop;  // where this turn ends at the latest: the end of the prompt, or a multiple of the chunk whose state is wanted
  int64_t total;    // tokens of the prompt
  int64_t arrival;  // tokens of prompts that had been read, of all together, when this one came
};

// Tokens for each, at most `room` (at least a chunk) together; cut at multiples of the chunk only. First comes who has the least left
// to read, but what others read since a prompt arrived counts for it: a long prompt waits no longer than for its own length of others.
std::vector<int64_t> prompt_turns(std::span<const Reading> prompts, int64_t room);

}  // namespace linnet::runtime
