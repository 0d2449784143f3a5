#include "server/generation.h"

#include <algorithm>
#include <thread>

#include "server/api_error.h"

namespace linnet::server {
namespace {

using std::chrono::milliseconds;
using Kind = runtime::Event::Kind;

constexpr milliseconds kPatience{50}, kTurnPatience{5};

void add(runtime::Usage& sum, const runtime::Usage& one) {
  sum.prompt_tokens += one.prompt_tokens;
  sum.cached_tokens += one.cached_tokens;
  sum.generated_tokens += one.generated_tokens;
  sum.queue_seconds = std::max(sum.queue_seconds, one.queue_seconds);
  sum.prompt_seconds += one.prompt_seconds;
  sum.decode_seconds += one.decode_seconds;
}

void throw_if_cut(runtime::Finish finish) {
  if (finish == runtime::Finish::cancelled) throw ApiError(503, "the server is shutting down", "", "shutting_down");
  if (finish == runtime::Finish::timed_out)
    throw ApiError(504, "the request took longer than this server allows", "", "timed_out");
}

}  // namespace

Generation::Generation(runtime::Scheduler& scheduler, const GenerationRequest& request, std::string id, Limits limits)
    : scheduler_(scheduler), request_(request), id_(std::move(id)), limits_(limits) {
  submit_next();
}

void Generation::submit_next() {
  const std::vector<int32_t>& prompt = request_.prompts[next_];
  runtime::Request r{.id = id_,
                     .prompt = prompt,
                     .options = request_.options,
                     .n = request_.n,
                     .top_logprobs = request_.top_logprobs,
                     .score_prompt = request_.score_prompts,
                     .deadline = limits_.deadline};
  // More than the context holds is not reserved: the reply ends there, with "length". The last token need not be read.
  const int64_t room = limits_.context - static_cast<int64_t>(prompt.size()) + 1;
  const int64_t wanted = request_.options.max_tokens;
  r.options.max_tokens = wanted < 0 ? room : std::min(wanted, room);
  active_.push_back({next_, scheduler_.submit(std::move(r))});
  ++next_;
}

// A request of many prompts takes the places that there are, and waits for its own prompts to end rather than be refused half way.
void Generation::submit_more() {
  while (next_ < request_.prompts.size() && active_.size() < limits_.prompts_at_once) {
    try {
      submit_next();
    } catch (const runtime::Busy& busy) {
      if (busy.draining) throw;
      return;
    }
  }
}

void Generation::run(const std::function<void(size_t, runtime::Event&)>& each, const std::function<bool()>& waiting) {
  while (next_ < request_.prompts.size() || !active_.empty()) {
    if (!waiting()) throw ClientGone();
    submit_more();
    if (active_.empty()) {
      std::this_thread::sleep_for(kPatience);
      continue;
    }
    // One prompt: its events come at once. Several: the first is waited for, the others are looked at in turn.
    milliseconds patience = active_.size() == 1 ? kPatience : kTurnPatience;
    for (size_t i = 0; i < active_.size(); patience = milliseconds(0)) {
      if (take(active_[i], each, patience)) active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
      else ++i;
    }
  }
}

// True when the last event has come.
bool Generation::take(Active& active, const std::function<void(size_t, runtime::Event&)>& each, milliseconds patience) {
  while (std::optional<runtime::Event> event = active.stream->next(patience)) {
    patience = milliseconds(0);
    if (event->kind == Kind::failed) std::rethrow_exception(event->error);
    if (event->kind == Kind::choice_finished) throw_if_cut(event->finish);
    if (event->kind == Kind::finished) add(usage_, event->usage);
    each(active.prompt, *event);
    if (event->kind == Kind::finished) return true;
  }
  return false;
}

}  // namespace linnet::server
