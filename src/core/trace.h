// Trace: where the time of a thread's work goes, by name. Off unless the thread has one in use: a Scope then costs the load of a
// thread-local pointer and a branch.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

namespace linnet {

class Trace {
 public:
  struct Entry {
    const char* name;  // a literal
    int64_t calls = 0;
    double seconds = 0;  // of all calls, nested scopes included
  };
  const std::vector<Entry>& entries() const { return entries_; }  // in the order of their first end
  double seconds(const char* name) const;                         // 0 for a name that was never met
  void clear() { entries_.clear(); }

  // Collects the scopes of the calling thread while it lives.
  class Use {
   public:
    explicit Use(Trace& trace) : before_(current_) { current_ = &trace; }
    ~Use() { current_ = before_; }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Trace* before_;
  };

  class Scope {
   public:
    explicit Scope(const char* name) : trace_(current_), name_(name) {
      if (trace_) start_ = Clock::now();
    }
    ~Scope() {
      if (trace_) trace_->add(name_, std::chrono::duration<double>(Clock::now() - start_).count());
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Trace* trace_;
    const char* name_;
    std::chrono::steady_clock::time_point start_;
  };

 private:
  using Clock = std::chrono::steady_clock;
  void add(const char* name, double seconds);

  static inline thread_local Trace* current_ = nullptr;
  std::vector<Entry> entries_;
};

}  // namespace linnet
