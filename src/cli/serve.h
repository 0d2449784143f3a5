// linnet serve: one model for many clients, over HTTP.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/engine_args.h"

namespace linnet::cli {

struct ServeArgs {
  EngineArgs engine;
  std::string host = "127.0.0.1";
  int port = 8080;
  std::string model_name;  // "" = the folder's
  std::optional<std::filesystem::path> api_key_file;
  bool no_api_key = false;  // other machines may ask without a key
  std::vector<std::string> cors;
  int64_t max_streams = 64, max_queue = 256;
  double state_memory_mib = 0;  // 0: what is free
  bool no_prefix_cache = false, no_batch_invariance = false;
  std::optional<std::filesystem::path> sessions;  // folder of saved conversations
  int64_t reply_tokens = 2048;
  double request_timeout = 0, drain_timeout = 30;  // seconds
  double max_body_mib = 32;
  int64_t max_connections = 4096;
  bool quiet = false;  // no line for each request
};

// Serves until SIGINT or SIGTERM; then requests that have begun may end, and a second signal ends at once. Returns the exit status.
int run_serve(const ServeArgs& args);

}  // namespace linnet::cli
