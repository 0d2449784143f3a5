// linnet logits: logits of given tokens, for comparing engines.
#pragma once

#include <filesystem>

#include "cli/engine_args.h"

namespace linnet::cli {

struct LogitsArgs {
  EngineArgs engine;
  std::filesystem::path ids;  // safetensors with input_ids [B, T], int32 or int64
  std::filesystem::path out;  // safetensors with logits [B, T, V] float32; appears complete or not at all
  bool hidden = false;        // also hidden.0 .. hidden.n [B, T, C]: embedding, then the stream after each layer
};

int run_logits(const LogitsArgs& args);

}  // namespace linnet::cli
