// The batcher's work for later: replies are read once more, so that the next turn finds their states.
#include <algorithm>

#include "runtime/serve/batcher.h"

namespace linnet::runtime {
namespace {

constexpr size_t kMostReplies = 64;  // that wait to be settled; the oldest give way

}  // namespace

void Batcher::keep_for_settling(const Job& job) {
  if (!memory_.caches() || job.reading()) return;
  const int64_t before = (job.prompt.n_tokens() - 1) / kCacheBlock * kCacheBlock;
  for (const Choice& choice : job.choices) {
    if (choice.drawn.empty()) continue;
    auto reply = std::make_unique<Reply>();
    reply->tokens = job.request.prompt;
    reply->tokens.insert(reply->tokens.end(), choice.drawn.begin(), choice.drawn.end());
    reply->n_before = before;
    const int64_t whole = static_cast<int64_t>(reply->tokens.size()) / kCacheBlock * kCacheBlock;
    if (whole <= before) continue;
    reply->reader = PromptReader(std::span(reply->tokens).first(static_cast<size_t>(whole)));
    replies_.push_back(std::move(reply));
    if (replies_.size() > kMostReplies) drop_reply();
  }
}

// Whether there is anything to read, and memory for it.
bool Batcher::begin_settling(Reply& reply) {
  const int64_t whole = reply.reader.n_tokens();
  const size_t bytes = memory_.bytes_of(whole, whole, 1);
  if (!memory_.fits(bytes)) return false;
  memory_.reserve(reply.bytes = bytes);
  const int64_t known = reply.reader.begin(engine_, memory_, PromptReader::From::cache, PromptReader::Keep::whole);
  // When even the prompt has been forgotten, so would be what is read for it now.
  return known < whole && known + memory_.spacing() >= reply.n_before;
}

void Batcher::settle_pass() {
  if (replies_.empty()) return;
  Reply& reply = *replies_.front();
  if (!reply.reader.begun() && !begin_settling(reply)) return drop_reply();
  const int64_t from = reply.reader.n_read(), room = engine_.tokens_per_pass() / kCacheBlock * kCacheBlock,
                count = std::min(reply.reader.next_stop() - from, room);
  const Append append = reply.reader.append(count, Want::nothing, step_of(model::Step::prefill));
  const Clock::time_point start = Clock::now();
  try {
    engine_.append({&append, 1}, [](size_t, int64_t, Tensor) {});
  } catch (...) {
    return drop_reply();  // nobody waits for it
  }
  ++stats_.prefill_passes, stats_.prefill_seconds += seconds_between(start, Clock::now());
  stats_.tokens_read += count, stats_.tokens_settled += count;
  reply.reader.took(count, memory_);
  if (reply.reader.done()) drop_reply();
}

// The oldest, settled or not.
void Batcher::drop_reply() {
  Reply& reply = *replies_.front();
  reply.reader.drop();
  memory_.release(reply.bytes);
  replies_.pop_front();
}

}  // namespace linnet::runtime
