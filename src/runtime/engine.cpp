#include "runtime/engine.h"

#include <algorithm>
#include <set>

#include "core/errors.h"
#include "core/text.h"

namespace linnet::runtime {

using model::LayerState;

struct Engine::Piece {
  size_t request;
  int64_t first, count;  // tokens of the request
};

Engine::Engine(const std::filesystem::path& dir, EngineOptions options)
    : options_(std::move(options)),
      pool_(options_.threads),
      workspace_(physical_memory_bytes()),
      loaded_(model::load_model(dir, options_.load, pool_)) {
  options_.load.check_progress = nullptr;  // what it refers to may end with the call
  start();
}

Engine::Engine(model::LoadedModel loaded, EngineOptions options)
    : options_(std::move(options)),
      pool_(options_.threads),
      workspace_(physical_memory_bytes()),
      loaded_(std::move(loaded)) {
  start();
}

void Engine::start() {
  states_ = std::make_unique<StatePool>(loaded_.model->state_specs(), loaded_.identity);
  if (options_.context < 0 || options_.context > config().context)
    throw InvalidArgument(cat("context: expected 1 to ", config().context,
                              " tokens (what the model was made for), got ", options_.context));
  if (options_.tokens_per_pass == 0) options_.tokens_per_pass = default_tokens_per_pass(config());
  if (options_.tokens_per_pass < 0)
    throw InvalidArgument(cat("tokens per pass: expected 1 or more, got ", options_.tokens_per_pass));
  const MemoryPlan plan = memory_plan();
  const size_t available = available_memory_bytes();
  if (options_.context == 0) options_.context = fitting_context(plan, config().context, available);
  require_memory(plan, options_.context, available);
}

MemoryPlan Engine::memory_plan() const { return plan_memory(*loaded_.model, options_.tokens_per_pass); }

void Engine::check(std::span<const Append> requests) const {
  std::set<const StateSlot*> slots;
  for (size_t r = 0; r < requests.size(); ++r) {
    const Append& request = requests[r];
    if (!slots.insert(request.slot).second)
      throw InvalidArgument(cat("append: request ", r, ": its slot appears twice"));
    if (!request.tentative && request.slot->n_tentative() > 0)
      throw InvalidArgument(cat("append: request ", r, ": its slot has ", request.slot->n_tentative(),
                                " tentative tokens; commit or roll back first"));
    const int64_t length = request.slot->n_tokens() + static_cast<int64_t>(request.tokens.size());
    if (length > options_.context)
      throw InvalidArgument(cat("prompt: ", request.slot->n_tokens(), " tokens held and ", request.tokens.size(),
                                " new make ", length, ", but the context is ", options_.context));
    for (size_t i = 0; i < request.tokens.size(); ++i)
      if (request.tokens[i] < 0 || request.tokens[i] >= config().vocab_size)
        throw InvalidArgument(cat("append: request ", r, ": token ", i, ": expected an id in [0, ", config().vocab_size,
                                  "), got ", request.tokens[i]));
  }
}

bool Engine::append(std::span<const Append> requests, LogitsSink sink, const Progress& progress) {
  check(requests);
  int64_t total = 0, finished = 0;
  for (const Append& request : requests) total += static_cast<int64_t>(request.tokens.size());
  std::vector<int64_t> done(requests.size(), 0);
  while (finished < total) {
    const std::vector<Piece> pieces = next_pass(requests, done);
    run_pass(requests, pieces, sink);
    for (const Piece& piece : pieces) done[piece.request] += piece.count, finished += piece.count;
    if (progress && !progress(finished, total) && finished < total) return false;
  }
  return true;
}

std::vector<Engine::Piece> Engine::next_pass(std::span<const Append> requests, const std::vector<int64_t>& done) const {
  constexpr int64_t kChunk = model::kPassChunk;
  std::vector<Piece> pieces;
  int64_t room = options_.tokens_per_pass;
  for (size_t r = 0; r < requests.size() && room > 0; ++r) {
    int64_t count = static_cast<int64_t>(requests[r].tokens.size()) - done[r];
    if (count == 0) continue;
    if (!pieces.empty() && requests[r].step != requests[pieces.front().request].step) continue;
    if (count > room && requests[r].step == model::Step::decode) count = room;
    if (count > room) {  // cut where the sequence itself reaches a multiple of the chunk
      const int64_t past = requests[r].slot->n_tokens(), end = (past + room) / kChunk * kChunk;
      if (end <= past && !pieces.empty()) continue;
      if (end > past) count = end - past;
      else count = requests[r].step == model::Step::prefill ? std::min(count, kChunk - past % kChunk) : room;
    }
    pieces.push_back({r, done[r], count});
    room -= count;
  }
  return pieces;
}

void Engine::run_pass(std::span<const Append> requests, const std::vector<Piece>& pieces, LogitsSink sink) {
  const size_t B = pieces.size(), n_layers = loaded_.model->state_specs().size();
  std::vector<int32_t> ids, seq_start{0}, output_rows;
  std::vector<int64_t> n_past;
  std::vector<LayerState> states(n_layers * B);
  for (size_t b = 0; b < B; ++b) {
    const Piece& piece = pieces[b];
    const Append& request = requests[piece.request];
    const auto tokens = request.tokens.subspan(static_cast<size_t>(piece.first), static_cast<size_t>(piece.count));
    n_past.push_back(request.slot->n_tokens());
    const std::vector<LayerState>& layers = request.slot->begin_append(tokens, request.tentative);
    for (size_t layer = 0; layer < n_layers; ++layer) states[layer * B + b] = layers[layer];
    const bool ends = piece.first + piece.count == static_cast<int64_t>(request.tokens.size());
    for (int64_t i = 0; i < piece.count; ++i)
      if (request.want == Want::all || (request.want == Want::last && ends && i == piece.count - 1))
        output_rows.push_back(static_cast<int32_t>(ids.size()) + static_cast<int32_t>(i));
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    seq_start.push_back(static_cast<int32_t>(ids.size()));
  }

  const Workspace::Scope scope(workspace_);
  const Tensor hidden = workspace_.tensor<float>({static_cast<int64_t>(output_rows.size()), config().hidden});
  const model::Pass pass{.step = requests[pieces.front().request].step,
                         .ids = ConstTensor::of(ids.data(), {static_cast<int64_t>(ids.size())}),
                         .seq_start = ConstTensor::of(seq_start.data(), {static_cast<int64_t>(seq_start.size())}),
                         .n_past = n_past,
                         .states = states,
                         .output_rows = output_rows,
                         .output = hidden};
  const Exec exec{pool_, workspace_};
  try {
    if (observer_) {
      const model::KimiLinear::Observer observe(observer_);
      loaded_.model->forward(pass, exec, &observe);
    } else {
      loaded_.model->forward(pass, exec);
    }
  } catch (...) {
    for (const Piece& piece : pieces) requests[piece.request].slot->fail_append();
    throw;
  }
  for (const Piece& piece : pieces) requests[piece.request].slot->end_append();
  deliver(requests, pieces, hidden, sink);
}

void Engine::deliver(std::span<const Append> requests, const std::vector<Piece>& pieces, ConstTensor hidden,
                     LogitsSink sink) {
  const int64_t L = hidden[0];
  if (L == 0) return;
  const Tensor logits = workspace_.tensor<float>({std::min(L, kLogitRows), config().vocab_size});
  // Rows of hidden lie in the order of the pieces; walk both in step.
  int64_t row = 0, from = 0, to = 0;  // logits holds rows [from, to)
  for (const Piece& piece : pieces) {
    const Append& request = requests[piece.request];
    const bool ends = piece.first + piece.count == static_cast<int64_t>(request.tokens.size());
    int64_t left = request.want == Want::all ? piece.count : request.want == Want::last && ends ? 1 : 0;
    int64_t first = piece.first + piece.count - left;
    while (left > 0) {
      if (row == to) {
        from = row, to = std::min(row + kLogitRows, L);
        loaded_.model->head(request.step, hidden.rows(from, to), logits.rows(0, to - from), Exec{pool_, workspace_});
      }
      const int64_t count = std::min(left, to - row);
      sink(piece.request, first, logits.rows(row - from, row - from + count));
      row += count, first += count, left -= count;
    }
  }
}

void Engine::commit(StateSlot& slot, int64_t n, model::Step step) {
  if (n < 0 || n > slot.n_tentative())
    throw InvalidArgument(cat("commit: expected 0 to ", slot.n_tentative(), " tentative tokens, got ", n));
  if (n == slot.n_tentative()) return slot.commit_all();
  const std::vector<int32_t> again(slot.tentative_tokens().begin(), slot.tentative_tokens().begin() + n);
  slot.rollback();
  const Append request{.slot = &slot, .tokens = again, .want = Want::nothing, .step = step};
  append({&request, 1}, [](size_t, int64_t, Tensor) {});
}

}  // namespace linnet::runtime
