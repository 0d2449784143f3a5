#include "runtime/serve/job.h"

namespace linnet::runtime {
namespace {

void drop_states(Job& job) {
  job.prompt.drop();
  for (Choice& choice : job.choices) choice.slot.reset();
}

void send_last(Job& job, Event event) {
  const Clock::time_point now = Clock::now(), never{};
  Usage& usage = job.usage;
  usage.prompt_tokens = job.prompt.n_tokens();
  usage.queue_seconds = seconds_between(job.submitted, job.admitted == never ? now : job.admitted);
  if (job.admitted != never)
    usage.prompt_seconds = seconds_between(job.admitted, job.prompt_read == never ? now : job.prompt_read);
  if (job.prompt_read != never) usage.decode_seconds = seconds_between(job.prompt_read, now);
  event.usage = usage;
  drop_states(job);
  job.channel->push(std::move(event));
}

}  // namespace

void end_choice(Job& job, Choice& choice) {
  choice.slot.reset();
  choice.over = true;
  Event event{.kind = Event::Kind::choice_finished, .choice = choice.index, .finish = choice.said.finish().value()};
  if (choice.said.n_drawn() > 0 && choice.step.is_end) event.tokens.push_back(std::move(choice.score));
  job.channel->push(std::move(event));
}

void close_finished(Job& job, SchedulerStats& stats) {
  ++stats.finished;
  send_last(job, {.kind = Event::Kind::finished});
}

void close_cut(Job& job, Finish finish, SchedulerStats& stats) {
  ++(finish == Finish::timed_out ? stats.timed_out : stats.cancelled);
  for (Choice& choice : job.choices) {
    if (choice.over) continue;
    choice.said.cut(finish);
    if (std::string rest = choice.said.rest(); !rest.empty())
      job.channel->push({.kind = Event::Kind::text, .choice = choice.index, .text = std::move(rest)});
    end_choice(job, choice);
  }
  send_last(job, {.kind = Event::Kind::finished});
}

void close_failed(Job& job, std::exception_ptr error, SchedulerStats& stats) {
  ++stats.failed;
  send_last(job, {.kind = Event::Kind::failed, .error = std::move(error)});
}

}  // namespace linnet::runtime
