// Ctrl-C as a request: a flag that long work looks at.
#pragma once

namespace linnet::cli {

constexpr int kInterruptedStatus = 130;  // 128 + SIGINT

// While it lives, the first SIGINT raises the flag; with `once`, a second one ends the process as it does by default.
class Interrupt {
 public:
  explicit Interrupt(bool once = true);
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool raised() const;
  void clear();
};

}  // namespace linnet::cli
