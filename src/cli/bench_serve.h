// `linnet bench-serve`: loads an OpenAI-compatible server and reports what its clients see.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace linnet::cli {

struct BenchServeArgs {
  std::string url;                         // http://HOST:PORT, perhaps with a path before /v1
  int64_t requests = 64, concurrency = 0;  // conversations, and how many at once; 0: 8, or with a rate 1024
  double rate = 0;  // conversations that begin in a second, Poisson; 0: as fast as places are free
  std::string prompt_tokens = "128", output_tokens = "64";  // N, or LOW:HIGH drawn evenly
  int64_t shared_tokens = 0;                                // the first so many tokens of all prompts are the same
  int64_t vocabulary = 256;                                 // random prompts draw ids below this
  std::filesystem::path prompts;                            // a line of JSON each, instead of random ones
  bool chat = false;
  int64_t turns = 1;
  double pause = 0;  // seconds between the turns of a conversation
  bool stop_at_end = false;
  std::optional<double> temperature;
  std::string model, api_key;
  double timeout = 600;  // seconds of one request
  std::string goodput;   // "ttft=500,tpot=50,latency=5000": milliseconds
  bool health = false;   // GET /health for `seconds`
  double seconds = 5;
  uint64_t seed = 0;
  bool json = false;
};

int run_bench_serve(const BenchServeArgs& args);

}  // namespace linnet::cli
