#include "core/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <utility>

#include "core/errors.h"
#include "core/text.h"

namespace linnet {
namespace {

thread_local int t_region_thread = -1;  // this thread's number while it runs a body, else -1

// The fields of ThreadPool::gate_.
constexpr uint32_t kSeat = 1, kSeats = (1u << 15) - 1, kInside = 1u << 15, kInsideAll = kSeats << 15,
                   kCallerSleeps = 1u << 31;
static_assert(ThreadPool::max_threads - 1 <= int{kSeats});

// How long a waiting thread looks before it sleeps: longer than the gaps between the regions of a decode step or of a training step
// (waking a sleeper takes its waker several microseconds and the sleeper up to 100), short enough that an idle program leaves
// the CPU alone. After the first microseconds it offers its CPU to whoever else could run there.
constexpr std::chrono::microseconds kLook{1000}, kLookAlone{20};

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Whether done() came true while this thread looked.
template <class Done>
bool look_for(Done done) {
  using Clock = std::chrono::steady_clock;
  constexpr int kLooksPerClock = 32;  // 0.4 to 1.5 us: a pause takes 40 to 140 cycles
  Clock::time_point start{};
  for (;;) {
    for (int look = 0; look < kLooksPerClock; ++look) {
      if (done()) return true;
      pause_cpu();
    }
    const Clock::time_point now = Clock::now();
    if (start == Clock::time_point{}) start = now;
    if (now - start > kLook) return false;
    if (now - start > kLookAlone) sched_yield();
  }
}

int usable_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
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

ThreadPool::ThreadPool(int n_threads, bool pin, std::function<void(int thread)> before_joining)
    : before_joining_(std::move(before_joining)) {
  if (n_threads < 0 || n_threads > max_threads)
    throw InvalidArgument(cat("threads: expected 0 (one per core) to ", max_threads, ", got ", n_threads));
  const std::vector<int> cores = usable_cores();
  n_threads_ = n_threads == 0 ? static_cast<int>(cores.size()) : n_threads;
  spins_ = n_threads_ <= usable_cpus();  // else looking keeps the thread that has work from running
  pin = pin && n_threads_ <= static_cast<int>(cores.size());
  for (int thread = 1; thread < n_threads_; ++thread)
    workers_.emplace_back([this, thread, cpu = pin ? cores[static_cast<size_t>(thread)] : -1] { worker(thread, cpu); });
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
  open_region(n, std::max<int64_t>(grain, 1), body);
  drain(0);
  close_region();
}

// Lets as many workers in as there are pieces besides the caller's, and wakes that many.
void ThreadPool::open_region(int64_t n, int64_t grain, const Body& body) {
  body_ = &body, n_ = n, grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  const int64_t more_pieces = (n - 1) / grain;
  const int seats = static_cast<int>(std::min<int64_t>(more_pieces, static_cast<int64_t>(workers_.size())));
  gate_.store(kSeat * static_cast<uint32_t>(seats), std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_seq_cst);  // before the look at sleepers_: see sleep_until_next
  const int sleepers = sleepers_.load(std::memory_order_seq_cst);
  if (sleepers > 0 && sleepers <= seats) return generation_.notify_all();
  for (int wake = 0; wake < std::min(sleepers, seats); ++wake) generation_.notify_one();
}

// Takes the seats that are left, then waits for the workers inside.
void ThreadPool::close_region() {
  uint32_t gate = gate_.fetch_and(~kSeats, std::memory_order_acquire) & kInsideAll;
  const auto empty = [&] { return (gate = gate_.load(std::memory_order_acquire)) == 0; };
  if (gate == 0 || (spins_ && look_for(empty))) return;
  gate = gate_.fetch_or(kCallerSleeps, std::memory_order_acquire) | kCallerSleeps;
  while ((gate & kInsideAll) != 0) {
    gate_.wait(gate, std::memory_order_acquire);
    gate = gate_.load(std::memory_order_acquire);
  }
}

bool ThreadPool::join_region() {
  uint32_t gate = gate_.load(std::memory_order_relaxed);
  // The gate may have been closed and opened again since it was read: an exchange that succeeds is an entry to what is open now.
  while ((gate & kSeats) != 0)
    if (gate_.compare_exchange_weak(gate, gate - kSeat + kInside, std::memory_order_acquire, std::memory_order_relaxed))
      return true;
  return false;
}

void ThreadPool::leave_region() {
  if (gate_.fetch_sub(kInside, std::memory_order_release) == (kCallerSleeps | kInside)) gate_.notify_one();
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

// Either the caller sees this sleeper and wakes it, or this thread sees the caller's generation and does not sleep.
void ThreadPool::sleep_until_next(uint32_t generation) {
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  generation_.wait(generation, std::memory_order_seq_cst);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
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
    const auto raised = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    if (!spins_ || !look_for(raised)) sleep_until_next(seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (before_joining_) before_joining_(thread);
    if (!join_region()) continue;
    drain(thread);
    leave_region();
  }
}

}  // namespace linnet
