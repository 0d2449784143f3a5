// linnet generate: continues a prompt.
#pragma once

#include "cli/engine_args.h"
#include "cli/input.h"
#include "cli/sampling_args.h"

namespace linnet::cli {

struct GenerateArgs {
  EngineArgs engine;
  TextSource prompt;
  SamplingArgs sampling;
  bool parse_specials = false;                       // names of control tokens in the prompt are control tokens
  bool bos = false;                                  // begin with the BOS token
  std::optional<std::filesystem::path> json_schema;  // the text is a value of this schema
  bool json_object = false;                          // the text is a JSON object
  bool json = false;                                 // one JSON object at the end instead of text as it comes
  bool quiet = false;                                // no timing
};

// Writes the text, and nothing but the text, to stdout as it comes; a line end after it only on a terminal. Returns the exit status.
int run_generate(const GenerateArgs& args);

}  // namespace linnet::cli
