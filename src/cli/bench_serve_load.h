// The load itself: one thread that keeps many requests under way and notes when each byte that matters came.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/bench_serve_http.h"
#include "cli/interrupt.h"

namespace linnet::cli {

// Times are seconds since the load began.
struct Exchange {  // what is to be asked
  int64_t conversation = 0, turn = 0;
  std::string request;  // the bytes to send
  double due = 0;       // not before
  bool stream = true;   // the answer is an event stream of completions
};

struct Sample {  // what came of it
  int64_t conversation = 0, turn = 0;
  std::string error;   // its kind; empty: a complete answer
  std::string detail;  // of the error: the server's sentence
  double start = 0;    // when it was due (with a rate: waiting for a place counts), else when it was sent
  double first = 0, last = 0, end = 0;  // first and last piece of text, end of the answer
  std::vector<double> gaps;             // between pieces of text
  int64_t prompt_tokens = -1, cached_tokens = -1, generated_tokens = -1;  // as the server counts; -1: it does not say
  std::string text;  // the pieces together; of an answer that is no stream: its body
};

// What is asked when.
class Workload {
 public:
  virtual ~Workload() = default;
  virtual std::optional<Exchange> next_conversation() = 0;              // nullopt: there are no more
  virtual std::optional<Exchange> next_turn(const Sample& before) = 0;  // nullopt: the conversation has ended
};

struct LoadOptions {
  int64_t concurrency = 8;     // conversations at once
  bool count_waiting = false;  // a conversation's time begins when it is due, even if no place is free
  double timeout = 600;        // seconds of one exchange
};

// Runs the workload to its end, or until the interrupt. Samples in the order of their ends. Throws IoError when the system refuses
// what a client needs; what servers do wrong is in the samples.
std::vector<Sample> run_load(const ServerAddress& server, Workload& workload, const LoadOptions& options,
                             const Interrupt& interrupt);

}  // namespace linnet::cli
