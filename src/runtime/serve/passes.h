// Passes: runs one pass of several sequences so that a failure costs no more of them than it must, and draws their next tokens.
#pragma once

#include <span>
#include <vector>

#include "runtime/serve/job.h"

namespace linnet::runtime {

// Engine::append, but when it fails, the sequences whose states are as they were before run again without the others, down to those
// that fail alone. errors[r] says why request r failed; null: it ran. `appends` must fit into one pass.
std::vector<std::exception_ptr> append_each(Engine& engine, std::span<const Append> appends, LogitsSink sink);

struct Draw {
  Choice* choice;
  std::span<float> logits;  // [V], overwritten
  int64_t n_held;           // tokens in the state that they came from
  int64_t top_logprobs;     // as in Request
};
// Draws on all threads of the pool into step, score and error of each choice. The draws are independent of each other.
void draw_each(ThreadPool& pool, std::span<const Draw> draws);

}  // namespace linnet::runtime
