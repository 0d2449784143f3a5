#include "runtime/scheduler.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "core/text.h"
#include "runtime/serve/batcher.h"

namespace linnet::runtime {

// The queue before the batcher, and the thread that drives it.
class Scheduler::Core {
 public:
  Core(Engine& engine, const formats::Tokenizer& tokenizer, const SchedulerOptions& options)
      : engine_(engine), tokenizer_(tokenizer), options_(options), batcher_(engine, options) {
    stats_ = batcher_.stats();
    thread_ = std::thread([this] { run(); });
  }
  ~Core() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = draining_ = true;
    }
    work_.notify_one();
    thread_.join();
  }

  std::unique_ptr<Stream> submit(Request request);
  void drain(Clock::time_point until);
  SchedulerStats stats() const;
  void with_cache(FunctionRef<void(PrefixCache&)> body);
  std::unique_ptr<LentState> copy_state(std::span<const int32_t> tokens);
  std::unique_ptr<LentState> lend_state(int64_t n_tokens);
  void remember(std::span<const int32_t> tokens, std::unique_ptr<LentState> state);

 private:
  std::unique_ptr<LentState> lend(FunctionRef<size_t(StateSlot& slot)> take);
  std::unique_ptr<Job> make_job(Request request) const;
  double retry_after() const;
  void run();
  void run_tasks(std::unique_lock<std::mutex>& lock);
  void end_waiting(bool cut);
  void publish();

  Engine& engine_;
  const formats::Tokenizer& tokenizer_;
  const SchedulerOptions options_;

  // The thread's own, but for what bytes_of and bytes_limit say.
  Batcher batcher_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable work_, ended_;
  std::deque<std::unique_ptr<Job>> waiting_;
  std::deque<std::function<void()>> tasks_;  // for the thread; they do not throw
  int64_t open_ = 0;                         // requests that have not ended
  bool draining_ = false, cut_ = false, stop_ = false;
  SchedulerStats stats_;          // as of the last round; waiting, submitted and refused are counted here
  SchedulerStats never_placed_;   // the ends of those that never had a place
  Smoothed seconds_per_request_;  // between the ends of requests while others wait
  Clock::time_point last_end_{};
  bool waited_ = false;  // others waited then
  int n_lent_ = 0;

  std::thread thread_;
};

namespace {

constexpr double kRetryUnknown = 1;                  // seconds, while no request has ended after others waited
constexpr std::chrono::milliseconds kLookAgain{10};  // at those that wait for memory: cancelled, late

int64_t n_ended(const SchedulerStats& s) { return s.finished + s.cancelled + s.timed_out + s.failed; }

void check(const Request& request, const Engine& engine, const SchedulerOptions& options) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) throw InvalidArgument("prompt: expected at least one token, got none");
  const int64_t vocab = engine.config().vocab_size, more = request.options.max_tokens == 0 ? 0 : 1;
  for (size_t i = 0; i < request.prompt.size(); ++i)
    if (request.prompt[i] < 0 || request.prompt[i] >= vocab)
      throw InvalidArgument(cat("prompt: token ", i, ": expected an id in [0, ", vocab, "), got ", request.prompt[i]));
  if (prompt + more > engine.context())
    throw InvalidArgument(cat("prompt: expected at most ", engine.context() - more, " tokens, since the context is ",
                              engine.context(), ", got ", prompt));
  if (request.n < 1 || request.n > options.max_streams)
    throw InvalidArgument(cat("n: expected 1 to ", options.max_streams, " choices, got ", request.n));
  if (request.top_logprobs < -1 || request.top_logprobs > vocab)
    throw InvalidArgument(cat("top_logprobs: expected 0 to ", vocab, ", got ", request.top_logprobs));
}

}  // namespace

std::unique_ptr<Job> Scheduler::Core::make_job(Request request) const {
  check(request, engine_, options_);
  auto job = std::make_unique<Job>();
  job->bytes = batcher_.bytes_of(request);
  if (job->bytes > batcher_.bytes_limit())
    throw InvalidArgument(cat("request: its states can take ", bytes_text(job->bytes), ", but there are ",
                              bytes_text(batcher_.bytes_limit()), " for all; ask for fewer tokens or choices"));
  GenerateOptions options = request.options;
  for (int64_t i = 0; i < request.n; ++i) {
    if (i > 0) options.sampling.seed = mix64(request.options.sampling.seed + static_cast<uint64_t>(i));
    job->choices.push_back(
        {.index = i, .said = Continuation(options, tokenizer_, engine_.config().vocab_size, engine_.context())});
    job->choices.back().said.observe(request.prompt);
  }
  job->request = std::move(request);
  job->prompt = PromptReader(job->request.prompt);
  job->channel = std::make_shared<Channel>();
  return job;
}

// A request that finds a place free is taken even without a queue: it waits for the end of a
// pass only.
std::unique_ptr<Stream> Scheduler::Core::submit(Request request) {
  std::unique_ptr<Job> job = make_job(std::move(request));
  auto stream = std::make_unique<Stream>(job->channel);
  {
    const std::lock_guard lock(mutex_);
    int64_t sequences = stats_.sequences, n_queued = 0;  // queued: without a place at the next look
    for (const auto& other : waiting_) sequences += other->request.n, n_queued += sequences > options_.max_streams;
    const bool full = sequences + job->request.n > options_.max_streams && n_queued >= options_.max_queue;
    if (draining_ || full) {
      ++stats_.refused;
      if (draining_) throw Busy("scheduler: it takes no more requests", retry_after(), true);
      throw Busy(cat("scheduler: ", n_queued, " requests wait already"), retry_after(), false);
    }
    job->submitted = Clock::now();
    waiting_.push_back(std::move(job));
    ++stats_.submitted, ++open_;
  }
  work_.notify_one();
  return stream;
}

double Scheduler::Core::retry_after() const {
  const double pace = seconds_per_request_.value();
  return pace == 0 ? kRetryUnknown : std::clamp(pace, 0.01, 60.0);
}

void Scheduler::Core::drain(Clock::time_point until) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  if (ended_.wait_until(lock, until, [&] { return open_ == 0; })) return;
  cut_ = true;
  ended_.wait(lock, [&] { return open_ == 0; });
}

SchedulerStats Scheduler::Core::stats() const {
  const std::lock_guard lock(mutex_);
  SchedulerStats stats = stats_;
  stats.waiting = static_cast<int64_t>(waiting_.size());
  return stats;
}

void Scheduler::Core::run() {
  bool blocked = false;  // what waits can only begin when a lent state comes back
  for (bool stop = false; !stop;) {
    bool cut;
    {
      std::unique_lock lock(mutex_);
      if (blocked) work_.wait_for(lock, kLookAgain, [&] { return stop_ || cut_ || !tasks_.empty(); });
      work_.wait(lock, [&] { return stop_ || !tasks_.empty() || !waiting_.empty() || !batcher_.idle(); });
      run_tasks(lock);
      stop = stop_, cut = stop_ || cut_;
      end_waiting(cut);
      while (!waiting_.empty() && batcher_.make_room(*waiting_.front())) {
        stats_.sequences += waiting_.front()->request.n;
        batcher_.admit(std::move(waiting_.front()));
        waiting_.pop_front();
      }
      blocked = !waiting_.empty() && batcher_.idle();
    }
    try {
      if (cut) batcher_.cut_all(Finish::cancelled);
      else batcher_.round();
    } catch (...) {  // nothing that a single request is to blame for
      batcher_.fail_all(std::current_exception());
    }
    publish();
  }
}

void Scheduler::Core::run_tasks(std::unique_lock<std::mutex>& lock) {
  while (!tasks_.empty()) {
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

void Scheduler::Core::with_cache(FunctionRef<void(PrefixCache&)> body) {
  if (!options_.prefix_cache) throw InvalidArgument("scheduler: there is no prefix cache");
  const auto done = std::make_shared<std::promise<void>>();  // outlives the wait: it is told from the other thread
  std::exception_ptr error;                                  // the other thread has let go of it by then
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back([this, body, done, &error] {
      try {
        body(batcher_.cache());
      } catch (...) { error = std::current_exception(); }
      done->set_value();
    });
  }
  work_.notify_one();
  done->get_future().get();
  if (error) std::rethrow_exception(std::move(error));
}

// `take` fills the slot, or not, and returns the bytes that are promised to it; it runs between two passes.
std::unique_ptr<LentState> Scheduler::Core::lend(FunctionRef<size_t(StateSlot& slot)> take) {
  {
    const std::lock_guard lock(mutex_);
    if (n_lent_ == kMostLent)
      throw Busy(cat("scheduler: ", n_lent_, " states are being read or written already"), retry_after(), false);
    ++n_lent_;
  }
  StateSlot slot = engine_.new_slot();
  size_t bytes = 0;
  try {
    with_cache([&](PrefixCache&) { bytes = take(slot); });
  } catch (...) {
    const std::lock_guard lock(mutex_);
    --n_lent_;
    throw;
  }
  return std::make_unique<LentState>(std::move(slot), bytes, [this](size_t left) {
    {
      const std::lock_guard lock(mutex_);
      --n_lent_;
      tasks_.push_back([this, left] { batcher_.take_back(left); });
    }
    work_.notify_one();
  });
}

std::unique_ptr<LentState> Scheduler::Core::copy_state(std::span<const int32_t> tokens) {
  return lend([&](StateSlot& slot) { return batcher_.copy_state(tokens, slot); });
}

std::unique_ptr<LentState> Scheduler::Core::lend_state(int64_t n_tokens) {
  return lend([&](StateSlot&) { return batcher_.lend_memory(n_tokens); });
}

void Scheduler::Core::remember(std::span<const int32_t> tokens, std::unique_ptr<LentState> state) {
  with_cache([&](PrefixCache&) { batcher_.remember(tokens, *state); });
}

// Ends what waits and was cancelled, is late, or has to go.
void Scheduler::Core::end_waiting(bool cut) {
  const Clock::time_point now = Clock::now();
  std::erase_if(waiting_, [&](const std::unique_ptr<Job>& job) {
    const bool cancelled = cut || job->channel->cancelled(), late = now >= job->request.deadline;
    if (cancelled || late) close_cut(*job, cancelled ? Finish::cancelled : Finish::timed_out, never_placed_);
    return cancelled || late;
  });
}

void Scheduler::Core::publish() {
  const std::lock_guard lock(mutex_);
  SchedulerStats now = batcher_.stats();
  now.submitted = stats_.submitted, now.refused = stats_.refused;
  now.cancelled += never_placed_.cancelled, now.timed_out += never_placed_.timed_out;
  const int64_t ended = n_ended(now) - n_ended(stats_);
  stats_ = now;
  if (ended == 0) return;
  const Clock::time_point time = Clock::now();
  if (waited_) { seconds_per_request_.add(seconds_between(last_end_, time) / static_cast<double>(ended)); }
  last_end_ = time, waited_ = !waiting_.empty();
  open_ -= ended;
  ended_.notify_all();
}

Scheduler::Scheduler(Engine& engine, const formats::Tokenizer& tokenizer, SchedulerOptions options)
    : core_(std::make_unique<Core>(engine, tokenizer, options)) {}
Scheduler::~Scheduler() = default;

std::unique_ptr<Stream> Scheduler::submit(Request request) { return core_->submit(std::move(request)); }
std::unique_ptr<LentState> Scheduler::copy_state(std::span<const int32_t> tokens) { return core_->copy_state(tokens); }
std::unique_ptr<LentState> Scheduler::lend_state(int64_t n_tokens) { return core_->lend_state(n_tokens); }
void Scheduler::remember(std::span<const int32_t> tokens, std::unique_ptr<LentState> state) {
  core_->remember(tokens, std::move(state));
}
void Scheduler::drain(std::chrono::steady_clock::time_point until) { core_->drain(until); }
SchedulerStats Scheduler::stats() const { return core_->stats(); }
void Scheduler::with_cache(FunctionRef<void(PrefixCache&)> body) { core_->with_cache(body); }

}  // namespace linnet::runtime
