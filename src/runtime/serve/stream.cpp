#include "runtime/serve/stream.h"

#include <algorithm>

namespace linnet::runtime {

void Channel::push(Event event) {
  const std::lock_guard lock(mutex_);
  over_ = event.kind == Event::Kind::finished || event.kind == Event::Kind::failed;
  const auto waiting = std::find_if(events_.begin(), events_.end(), [&](const Event& e) {
    return e.kind == Event::Kind::text && event.kind == Event::Kind::text && e.choice == event.choice;
  });
  if (waiting == events_.end()) {
    events_.push_back(std::move(event));
  } else {
    waiting->text += event.text;
    std::move(event.tokens.begin(), event.tokens.end(), std::back_inserter(waiting->tokens));
  }
  came_.notify_one();
}

std::optional<Event> Channel::next(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  came_.wait_for(lock, patience, [&] { return !events_.empty() || over_; });
  if (events_.empty()) return std::nullopt;
  Event event = std::move(events_.front());
  events_.pop_front();
  return event;
}

}  // namespace linnet::runtime
