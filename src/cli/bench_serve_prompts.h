// What bench-serve asks: random prompts of given lengths, or prompts from a file; one turn or conversations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/bench_serve.h"
#include "cli/bench_serve_load.h"
#include "core/rng.h"

namespace linnet::cli {

// "128" or "64:256". Throws InvalidArgument.
struct Range {
  int64_t low, high;
};
Range parse_range(const std::string& text, const char* option);

// Conversation i of a seed is always the same, whatever the order in which conversations go on.
class Prompts : public Workload {
 public:
  Prompts(const BenchServeArgs& args, const ServerAddress& server, std::string model);

  std::optional<Exchange> next_conversation() override;
  std::optional<Exchange> next_turn(const Sample& before) override;

 private:
  struct FilePrompt {
    std::string text;      // a text prompt, or
    std::string messages;  // JSON of messages, without the brackets
  };
  void read_file();
  Exchange exchange(int64_t conversation, int64_t turn);
  std::string body(int64_t conversation, int64_t turn) const;
  std::string random_ids(int64_t conversation) const;
  std::string random_words(int64_t conversation, int64_t turn) const;
  int64_t draw(const Range& range, int64_t conversation, int64_t turn, uint64_t what) const;

  const BenchServeArgs& args_;
  const ServerAddress& server_;
  std::string model_;
  Range prompt_, output_;
  std::vector<FilePrompt> file_;
  std::vector<std::string> histories_;  // of each conversation: JSON of its messages so far, separated by commas
  Rng arrivals_;
  double arrival_ = 0;
};

// GET /health, again and again until the time is over.
class HealthChecks : public Workload {
 public:
  HealthChecks(const BenchServeArgs& args, const ServerAddress& server);
  std::optional<Exchange> next_conversation() override;
  std::optional<Exchange> next_turn(const Sample& before) override;

 private:
  std::string request_;
  int64_t left_;  // conversations that have not begun
  double seconds_;
};

}  // namespace linnet::cli
