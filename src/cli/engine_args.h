// What every command that runs a model takes: where it is, how it runs, and where public implementations differ.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "formats/tokenizer.h"
#include "runtime/engine.h"

namespace linnet::cli {

struct EngineArgs {
  std::filesystem::path model;
  int threads = 0;              // 0: one per core
  int64_t context = 0;          // 0: the model's, or what memory holds
  int64_t tokens_per_pass = 0;  // 0: chosen by the engine
  std::string latent;           // "f32", "bf16" or empty: by the weights
  std::string parity;           // see parse_parity
};

// "biased-router,latent-eps=1e-6,double-round,bf16-decay" in any selection; "remote" is all four: what the published remote code
// computes. Throws InvalidArgument naming what is unknown.
model::ParityOptions parse_parity(const std::string& text);

// Loads the model; a line of progress on the terminal meanwhile.
std::unique_ptr<runtime::Engine> open_engine(const EngineArgs& args);

// For results that are no numbers: looks through all weights, which a large checkpoint did not get at load. Throws FormatError naming
// the bad one; returns when all are finite.
void blame_weights(runtime::Engine& engine);

}  // namespace linnet::cli
