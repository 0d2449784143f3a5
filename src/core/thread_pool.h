// A fork-join pool. The caller works too, so up to size() threads take part in a region. It waits for those that do, never for a
// worker that has not come yet: one that the system has not scheduled costs its help, not time. Between regions workers look
// for the next one for about a millisecond, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "core/function_ref.h"

namespace linnet {

class ThreadPool {
 public:
  // n_threads 0: one per physical core that this process may run on. Each worker is pinned to a core of its own when there
  // are enough (off with pin = false); the calling thread is never pinned. Throws InvalidArgument for n_threads < 0 or more than
  // max_threads. before_joining (for tests) is called by a worker that has seen a region and not yet asked to take part.
  static constexpr int max_threads = 1 << 15;
  explicit ThreadPool(int n_threads = 0, bool pin = true, std::function<void(int thread)> before_joining = nullptr);
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
  void open_region(int64_t n, int64_t grain, const Body& body);
  void close_region();
  void worker(int thread, int cpu);
  void sleep_until_next(uint32_t generation);
  bool join_region();
  void leave_region();
  void drain(int thread) noexcept;

  int n_threads_ = 1;
  bool spins_ = false;  // a waiting thread looks for a while before it sleeps
  std::function<void(int)> before_joining_;
  std::vector<std::thread> workers_;

  // The current region. The caller writes it while no worker is inside; workers read it only from the inside.
  alignas(64) std::atomic<uint32_t> generation_{0};  // raised with each region: what waiting workers look at
  const Body* body_ = nullptr;
  int64_t n_ = 0, grain_ = 1;
  alignas(64) std::atomic<int64_t> next_{0};  // the first index not handed out
  // Who may join and who has: the seats left (low 15 bits), the workers inside (15 bits above), and whether the caller sleeps until the
  // last of them leaves (top bit). A worker joins by taking a seat, in one exchange; without seats the region is closed.
  alignas(64) std::atomic<uint32_t> gate_{0};
  alignas(64) std::atomic<int> sleepers_{0};  // workers that sleep or are about to
  std::atomic<bool> stop_{false};
};

// One CPU number per physical core (its first hardware thread) that this process may run on, ascending.
std::vector<int> usable_cores();

}  // namespace linnet
