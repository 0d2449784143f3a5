// linnet chat: a conversation on the terminal, or line by line through a pipe.
#pragma once

#include <string>

#include "cli/engine_args.h"
#include "cli/sampling_args.h"

namespace linnet::cli {

struct ChatArgs {
  EngineArgs engine;
  SamplingArgs sampling;
  std::string system;   // the system message
  bool timing = false;  // on stderr after each reply
};

// A line of stdin is a message or a command; each reply is a text on stdout, ended by a line end. Returns the exit status: of the last
// line that failed, or 0.
int run_chat(const ChatArgs& args);

}  // namespace linnet::cli
