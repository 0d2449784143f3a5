#include "runtime/serve/passes.h"

#include <algorithm>

namespace linnet::runtime {
namespace {

void append_some(Engine& engine, std::span<const Append> appends, std::span<const size_t> which, LogitsSink sink,
                 std::vector<std::exception_ptr>& errors) {
  std::vector<Append> requests;
  std::vector<int64_t> before;
  for (size_t r : which) requests.push_back(appends[r]), before.push_back(appends[r].slot->n_tokens());
  try {
    engine.append(requests, [&](size_t i, int64_t first, Tensor rows) { sink(which[i], first, rows); });
    return;
  } catch (...) {
    for (size_t r : which) errors[r] = std::current_exception();
  }
  if (which.size() == 1) return;
  std::vector<size_t> intact;
  for (size_t i = 0; i < which.size(); ++i)
    if (requests[i].slot->n_tokens() == before[i]) intact.push_back(which[i]), errors[which[i]] = nullptr;
  const std::span<const size_t> again = intact;
  const size_t half = (again.size() + 1) / 2;
  if (half > 0) append_some(engine, appends, again.first(half), sink, errors);
  if (half < again.size()) append_some(engine, appends, again.subspan(half), sink, errors);
}

void draw_one(const Draw& draw) {
  Choice& choice = *draw.choice;
  try {
    static thread_local std::vector<float> raw;  // the sampler overwrites its logits
    if (draw.top_logprobs >= 0) raw.assign(draw.logits.begin(), draw.logits.end());
    choice.step = choice.said.draw(draw.logits, draw.n_held);
    if (draw.top_logprobs >= 0) choice.score = score_token(raw, choice.step.token, draw.top_logprobs);
    else choice.score = {{.id = choice.step.token}, {}};
  } catch (...) { choice.error = std::current_exception(); }
}

}  // namespace

std::vector<std::exception_ptr> append_each(Engine& engine, std::span<const Append> appends, LogitsSink sink) {
  std::vector<std::exception_ptr> errors(appends.size());
  std::vector<size_t> all(appends.size());
  for (size_t r = 0; r < all.size(); ++r) all[r] = r;
  if (!all.empty()) append_some(engine, appends, all, sink, errors);
  return errors;
}

void draw_each(ThreadPool& pool, std::span<const Draw> draws) {
  pool.parallel_for(static_cast<int64_t>(draws.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) draw_one(draws[static_cast<size_t>(i)]);
  });
}

}  // namespace linnet::runtime
