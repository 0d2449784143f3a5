// linnet perplexity: how well a model predicts given text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "cli/engine_args.h"

namespace linnet::cli {

struct PerplexityArgs {
  EngineArgs engine;  // its context is the window that is read from an empty state; default 4096, if not less
  std::vector<std::filesystem::path> files;  // each a document; "-" is stdin
  std::filesystem::path ids;                 // or: safetensors with input_ids [B, T], each row a document
  int64_t stride = 0;                        // tokens between the beginnings of windows; 0: the window
  bool bos = false;                          // each document begins with the BOS token
  bool json = false;
};

int run_perplexity(const PerplexityArgs& args);

}  // namespace linnet::cli
