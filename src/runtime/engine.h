// Engine: a loaded model with threads and memory, advancing state slots. Everything that runs a model goes through append().
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "core/exec.h"
#include "core/function_ref.h"
#include "model/load.h"
#include "runtime/memory_plan.h"
#include "runtime/state_slot.h"

namespace linnet::runtime {

struct EngineOptions {
  int threads = 0;      // 0: one per core
  int64_t context = 0;  // longest sequence accepted, tokens; 0: what the model was made for, or what memory holds
  int64_t tokens_per_pass = 0;  // 0: chosen so that a pass's activations stay within kActivationBytes
  model::LoadOptions load;
};

enum class Want : uint8_t { nothing, last, all };  // which of the appended tokens' logits

struct Append {
  StateSlot* slot;
  std::span<const int32_t> tokens;
  bool tentative = false;
  Want want = Want::last;
  // prefill, decode: the bits of the sequence's state and logits are a function of its tokens, of where prefill and decode change, and of
  // nothing else: not of other requests, of passes, of threads. Prefill then wants tokens that end where the prompt ends or at a multiple
  // of model::kPassChunk positions of the sequence.
  model::Step step = model::Step::cheapest;
};

// Receives logits [L, V] f32 of tokens [first, first + L) of request `request`; the memory is valid during the call and may be written.
using LogitsSink = FunctionRef<void(size_t request, int64_t first, Tensor logits)>;
// Told after each pass how many of how many tokens are done; returning false stops: see append.
using Progress = std::function<bool(int64_t done, int64_t total)>;

class Engine {
 public:
  // Loads a checkpoint folder. Throws FormatError, IoError, InvalidArgument; OutOfMemory when one sequence of the context does not
  // fit beside the activations.
  Engine(const std::filesystem::path& dir, EngineOptions options);
  // Runs a model that is already there; options.load is not used.
  Engine(model::LoadedModel loaded, EngineOptions options);

  const model::ModelConfig& config() const { return loaded_.model->config(); }
  const model::LoadedModel& loaded() const { return loaded_; }
  int64_t context() const { return options_.context; }
  int64_t tokens_per_pass() const { return options_.tokens_per_pass; }
  MemoryPlan memory_plan() const;
  ThreadPool& pool() { return pool_; }

  StateSlot new_slot() const { return StateSlot(*states_); }
  StatePool& states() const { return *states_; }  // the memory of its slots

  // Appends to several sequences at once, in passes of one step's requests and at most tokens_per_pass() packed tokens (prefill: or one
  // chunk). Long requests are cut at multiples of model::kPassChunk of the sequence's own positions; with prefill, nowhere else. A slot
  // may appear once.
  // Throws InvalidArgument, before anything has changed, for an id outside the vocabulary or a sequence that would outgrow context().
  // Returns false when `progress` stopped it: each slot then holds the tokens of the passes that ran.
  bool append(std::span<const Append> requests, LogitsSink sink, const Progress& progress = nullptr);

  // Makes the first n tentative tokens of the slot committed and forgets the others. All of them: free. Some: the recurrent state returns
  // to the snapshot and the n tokens run again (docs/decisions/ has the costs). Throws InvalidArgument unless 0 <= n <= n_tentative().
  void commit(StateSlot& slot, int64_t n, model::Step step = model::Step::cheapest);  // step: of tokens that run again

  // Sees the residual stream of every pass; for tests and for comparing engines.
  void set_observer(std::function<void(int64_t layer, const ConstTensor& stream)> observer) {
    observer_ = std::move(observer);
  }

 private:
  struct Piece;  // the part of one request that runs in one pass
  void start();
  void check(std::span<const Append> requests) const;
  std::vector<Piece> next_pass(std::span<const Append> requests, const std::vector<int64_t>& done) const;
  void run_pass(std::span<const Append> requests, const std::vector<Piece>& pieces, LogitsSink sink);
  void deliver(std::span<const Append> requests, const std::vector<Piece>& pieces, ConstTensor hidden, LogitsSink sink);

  EngineOptions options_;
  ThreadPool pool_;
  Workspace workspace_;
  model::LoadedModel loaded_;
  std::unique_ptr<StatePool> states_;
  std::function<void(int64_t, const ConstTensor&)> observer_;
};

}  // namespace linnet::runtime
