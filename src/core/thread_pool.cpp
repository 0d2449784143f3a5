#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <fstream>

#include "core/errors.h"
#include "core/text.h"

namespace linnet {
namespace {

thread_local int t_region_thread = -1;  // this thread's number while it runs a body, else -1

// How long a waiting thread spins before it sleeps: about 50 us, longer than the gaps between regions of a decode step,
// short enough that an idle program leaves the CPU alone.
constexpr int kSpins = 20000;

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Returns once the value is no longer `old` (it may have changed back: callers look again).
template <class T>
void spin_then_wait(const std::atomic<T>& value, T old, int spins) {
  for (int spin = 0; spin < spins; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_cpu();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

std::vector<int> usable_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return {0};
  std::vector<int> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    // The sibling list starts with the lowest hardware thread of the core: "0,64" or "0-1".
    std::ifstream siblings(cat("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    int first = cpu;
    siblings >> first;
    const bool first_is_ours = first >= 0 && first < CPU_SETSIZE && CPU_ISSET(first, &allowed);
    if (first == cpu || !first_is_ours) cores.push_back(cpu);
  }
  if (cores.empty()) cores.push_back(0);
  return cores;
}

ThreadPool::ThreadPool(int n_threads, bool pin) {
  if (n_threads < 0) throw InvalidArgument(cat("threads: expected 0 (one per core) or more, got ", n_threads));
  const std::vector<int> cores = usable_cores();
  n_threads_ = n_threads == 0 ? static_cast<int>(cores.size()) : n_threads;
  const bool room = n_threads_ <= static_cast<int>(cores.size());
  spins_ = room ? kSpins : 0;  // with fewer cores than threads, spinning keeps the one that has work from running
  for (int thread = 1; thread < n_threads_; ++thread)
    workers_.emplace_back(
        [this, thread, cpu = pin && room ? cores[static_cast<size_t>(thread)] : -1] { worker(thread, cpu); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void ThreadPool::parallel_for(int64_t n, int64_t grain, Body body) noexcept {
  if (n <= 0) return;
  if (workers_.empty() || t_region_thread >= 0 || n <= grain) {
    const int outer = t_region_thread;
    t_region_thread = std::max(outer, 0);
    body(0, n, t_region_thread);
    t_region_thread = outer;
    return;
  }
  body_ = &body, n_ = n, grain_ = std::max<int64_t>(grain, 1);
  next_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  drain(0);
  for (int left = running_.load(std::memory_order_acquire); left != 0; left = running_.load(std::memory_order_acquire))
    spin_then_wait(running_, left, spins_);
}

void ThreadPool::drain(int thread) noexcept {
  t_region_thread = thread;
  for (;;) {
    const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= n_) break;
    (*body_)(begin, std::min(begin + grain_, n_), thread);
  }
  t_region_thread = -1;
}

void ThreadPool::worker(int thread, int cpu) {
  if (cpu >= 0) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one,
                           &one);  // best effort: a refused pin costs speed, not correctness
  }
  uint32_t seen = 0;
  for (;;) {
    spin_then_wait(generation_, seen, spins_);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    drain(thread);
    if (running_.fetch_sub(1, std::memory_order_release) == 1) running_.notify_one();
  }
}

}  // namespace linnet
