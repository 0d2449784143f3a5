// linnet perplexity: how well a model predicts given text.
#pragma once

#include <cstdint>

#include "cli/engine_args.h"
#include "cli/scored_documents.h"

namespace linnet::cli {

struct PerplexityArgs {
  EngineArgs engine;  // its context is the window that is read from an empty state; default 4096, if not less
  ScoredSource documents;
  int64_t stride = 0;  // tokens between the beginnings of windows; 0: the window
  bool json = false;
};

int run_perplexity(const PerplexityArgs& args);

}  // namespace linnet::cli
