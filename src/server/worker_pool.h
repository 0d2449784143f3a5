// WorkerPool: a thread for each task that waits for the model, up to a limit; threads that have nothing to do wait for the next.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace linnet::server {

class WorkerPool {
 public:
  explicit WorkerPool(size_t max_threads) : max_threads_(max_threads) {}
  ~WorkerPool();  // waits for the tasks
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False when all threads are busy: nothing is queued.
  bool try_run(std::function<void()> task);

 private:
  void work();

  size_t max_threads_;
  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<std::function<void()>> tasks_;  // never more than there are idle threads
  size_t idle_ = 0;
  bool ending_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace linnet::server
