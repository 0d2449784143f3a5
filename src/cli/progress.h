// One line on the terminal that says how far long work has come; nothing when stderr is no terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace linnet::cli {

class ProgressLine {
 public:
  // `what`: "prompt"; `unit`: "tokens", or "bytes" for sizes.
  ProgressLine(std::string what, std::string unit);
  ~ProgressLine();  // erases the line
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  // total 0: no share is known.
  void show(int64_t done, int64_t total);    // at once
  void update(int64_t done, int64_t total);  // when the work has lasted a short while, and then a few times a second
  void erase();

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_, unit_;
  bool enabled_, shown_ = false;
  Clock::time_point start_, next_;
};

}  // namespace linnet::cli
