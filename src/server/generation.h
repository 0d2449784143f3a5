// Generation: the prompts of one request, run by the scheduler; their events, one after another.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "runtime/scheduler.h"
#include "server/generation_request.h"

namespace linnet::server {

class Generation {
 public:
  struct Limits {
    int64_t context = 0;
    size_t prompts_at_once = 1;
    std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  };

  // Submits the first prompt: throws Busy, InvalidArgument. The request must outlive it.
  Generation(runtime::Scheduler& scheduler, const GenerationRequest& request, std::string id, Limits limits);

  // Hands on events until all prompts are done; `waiting` is asked meanwhile at least ten times a second, and false from it is a
  // client that has gone: throws ClientGone. Throws ApiError 503 when the scheduler ended the request, 504 at the deadline, and
  // what a prompt failed with. Whatever still runs is cancelled.
  void run(const std::function<void(size_t prompt, runtime::Event& event)>& each, const std::function<bool()>& waiting);

  const runtime::Usage& usage() const { return usage_; }  // of the prompts that are done

 private:
  struct Active {
    size_t prompt;
    std::unique_ptr<runtime::Stream> stream;
  };
  void submit_more();
  void submit_next();
  bool take(Active& active, const std::function<void(size_t, runtime::Event&)>& each,
            std::chrono::milliseconds patience);

  runtime::Scheduler& scheduler_;
  const GenerationRequest& request_;
  std::string id_;
  Limits limits_;
  size_t next_ = 0;  // prompt to submit
  std::vector<Active> active_;
  runtime::Usage usage_;
};

}  // namespace linnet::server
