// A fork-join pool. The caller works too, so size() threads take part; workers spin briefly between regions, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "core/function_ref.h"

namespace linnet {

class ThreadPool {
 public:
  // n_threads 0: one per physical core that this process may run on. Each worker is pinned to a core of its own when there
  // are enough (off with pin = false); the calling thread is never pinned. Throws InvalidArgument for n_threads < 0.
  explicit ThreadPool(int n_threads = 0, bool pin = true);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  // Calls body(begin, end, thread) over [0, n) in pieces of `grain` indices, handed out as threads become free. Returns when
  // all are done. Pieces must be independent: then the result does not depend on the thread count. body must not throw.
  // A call from inside a body runs all of its range on the calling thread, under that thread's number. One region at a time: not
  // callable from two threads at once. `thread` is in [0, size()) and unique among those running: use it to pick scratch memory.
  using Body = FunctionRef<void(int64_t begin, int64_t end, int thread)>;
  void parallel_for(int64_t n, int64_t grain, Body body) noexcept;

 private:
  void worker(int thread, int cpu);
  void drain(int thread) noexcept;

  int n_threads_ = 1;
  int spins_ = 0;  // looks at a flag before sleeping on it
  std::vector<std::thread> workers_;

  // The current region. Written by the caller before generation_ is raised, read by workers after they see it.
  const Body* body_ = nullptr;
  int64_t n_ = 0, grain_ = 1;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> running_{0};
  std::atomic<bool> stop_{false};
};

// One CPU number per physical core (its first hardware thread) that this process may run on, ascending.
std::vector<int> usable_cores();

}  // namespace linnet
