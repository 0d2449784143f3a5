// Stream: the client's end of a request; Channel: what lies between it and the scheduler.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/continuation.h"
#include "runtime/serve/scores.h"

namespace linnet::runtime {

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;     // of the prompt: their state was remembered, not computed
  int64_t generated_tokens = 0;  // of all choices, end tokens included
  double queue_seconds = 0;      // until the request had its place
  double prompt_seconds = 0;     // from there until the prompt had been read
  double decode_seconds = 0;     // from there to the end
};

// What a stream tells its client, in order. The last event is `finished` or `failed`.
struct Event {
  enum class Kind : uint8_t { prompt_scored, text, choice_finished, finished, failed };
  Kind kind;
  int64_t choice = 0;  // text, choice_finished
  std::string text;    // text: certain text (may be empty: tokens without certain text yet)
  std::vector<ScoredToken>
      tokens;       // text: the tokens behind it, drawn since the last event of the choice; choice_finished: the end
                    // token, if one ended it; prompt_scored: prompt[1], prompt[2], ... Scores (log-probability and
                    // alternatives) are 0 and none unless asked for
  Finish finish{};  // choice_finished
  Usage usage;      // finished, failed
  std::exception_ptr error;  // failed
};

// Texts of a choice that the client has not taken yet are joined, so that a client that does not read costs the memory of its tokens,
// which its limits bound, and nobody waits for it.
class Channel {
 public:
  void push(Event event);
  std::optional<Event> next(std::chrono::milliseconds patience);
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  std::mutex mutex_;
  std::condition_variable came_;
  std::deque<Event> events_;
  bool over_ = false;  // the last event has been pushed
  std::atomic<bool> cancelled_{false};
};

// May outlive the scheduler. One thread at a time. Dropping it cancels the request.
class Stream {
 public:
  explicit Stream(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}
  ~Stream() { channel_->cancel(); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // The next event; nullopt: nothing came in time, or the last event has been taken.
  std::optional<Event> next(std::chrono::milliseconds patience) { return channel_->next(patience); }
  void cancel() { channel_->cancel(); }  // ends soon with Finish::cancelled

 private:
  std::shared_ptr<Channel> channel_;
};

}  // namespace linnet::runtime
