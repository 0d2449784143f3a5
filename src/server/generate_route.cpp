// /v1/chat/completions and /v1/completions: one generation, told at the end or as it comes.
#include <limits>

#include "core/text.h"
#include "server/api_error.h"
#include "server/generation.h"
#include "server/reply_format.h"
#include "server/routes.h"

namespace linnet::server {
namespace {

using Clock = std::chrono::steady_clock;
using Kind = runtime::Event::Kind;
using runtime::ScoredToken;

constexpr std::chrono::seconds kSilence{10};  // a stream that waits says so, so that nobody between takes it for dead

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// One request from its fields to its last byte.
class Reply {
 public:
  Reply(Service& service, Call& call, GenerationRequest request)
      : service_(service),
        call_(call),
        request_(std::move(request)),
        format_(
            ReplyFormat::make(request_, *service.model.tokenizer,
                              {.id = cat(request_.endpoint == Endpoint::chat ? "chatcmpl-" : "cmpl-", call.record.id),
                               .created = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now()),
                               .model = service.model.name})),
        choices_(request_.prompts.size() * static_cast<size_t>(request_.n)) {}

  void run() {
    RequestRecord& record = call_.record;
    record.generated = true;
    for (const std::vector<int32_t>& prompt : request_.prompts)
      record.prompt_tokens += static_cast<int64_t>(prompt.size());
    for (const std::string& field : request_.unknown)
      record.ignored += cat(record.ignored.empty() ? "" : ", ", printable(field, 40));
    if (!record.ignored.empty()) call_.headers.emplace_back("X-Ignored-Fields", record.ignored.substr(0, 400));
    Generation::Limits limits{.context = service_.model.context,
                              .prompts_at_once = static_cast<size_t>(
                                  std::max<int64_t>(service_.options.scheduler.max_streams / request_.n, 1))};
    if (service_.options.request_timeout.count() > 0)
      limits.deadline = call_.request().received + service_.options.request_timeout;
    Generation generation(service_.scheduler, request_, record.id, limits);
    try {
      generation.run([this](size_t prompt, runtime::Event& event) { take(prompt, event); }, [this] { return wait(); });
    } catch (...) {  // a client that has gone, time that is over, a server that stops: what was drawn counts
      service_.metrics.usage(0, 0, record.generated_tokens);
      throw;
    }
    finish(generation.usage());
  }

 private:
  struct Progress {
    Choice whole;  // not for streams
    bool begun = false;
    runtime::ToolCallParser parser;
  };

  void take(size_t prompt, runtime::Event& event) {
    const int64_t index = static_cast<int64_t>(prompt) * request_.n + event.choice;
    switch (event.kind) {
      case Kind::prompt_scored: prompt_scores_[prompt] = std::move(event.tokens); break;
      case Kind::text:
      case Kind::choice_finished: {
        note_first_token(event);
        call_.record.generated_tokens += static_cast<int64_t>(event.tokens.size());
        const std::string_view word = event.kind == Kind::choice_finished ? finish_word(event.finish) : "";
        if (!word.empty()) call_.record.finish = word;
        if (event.kind == Kind::choice_finished && request_.endpoint == Endpoint::chat) event.tokens.clear();
        tell(prompt, index, event.text, event.tokens, word);
        break;
      }
      case Kind::finished: {  // texts that were not taken at once come joined: the scheduler knows the pace
        const runtime::Usage& usage = event.usage;
        const int64_t steps = usage.generated_tokens - request_.n;
        if (steps > 0)
          service_.metrics.token_interval(usage.decode_seconds * static_cast<double>(request_.n) /
                                          static_cast<double>(steps));
        break;
      }
      default: break;
    }
  }

  void note_first_token(const runtime::Event& event) {
    if (event.tokens.empty() || call_.record.first_token_seconds > 0) return;
    call_.record.first_token_seconds = seconds_between(call_.request().received, Clock::now());
    service_.metrics.first_token(call_.record.first_token_seconds);
  }

  // A part of a choice: to the client, or to the whole.
  void tell(size_t prompt, int64_t index, std::string_view text, std::span<const ScoredToken> tokens,
            std::string_view word) {
    Progress& progress = choices_[static_cast<size_t>(index)];
    std::string echoed;
    std::vector<ScoredToken> more;
    const bool first = !std::exchange(progress.begun, true);
    if (first && request_.echo) {
      echoed = echo_text(prompt) + std::string(text);
      text = echoed;
      if (request_.score_prompts) {
        more = echo_scores(prompt);
        more.insert(more.end(), tokens.begin(), tokens.end());
        tokens = more;
      }
    }
    runtime::ToolCallParser::Parsed parsed;
    if (request_.tools) {
      parsed = progress.parser.push(text);
      text = parsed.content;
      if (word == "stop" && progress.parser.n_calls() > 0) call_.record.finish = word = "tool_calls";
    }
    if (!request_.stream) {
      for (const runtime::ToolCallDelta& call : parsed.calls)
        if (call.id.empty()) progress.whole.calls.at(call.index).arguments += call.arguments;
        else progress.whole.calls.push_back(call);
      progress.whole.text += text;
      if (request_.top_logprobs >= 0)
        progress.whole.tokens.insert(progress.whole.tokens.end(), tokens.begin(), tokens.end());
      if (!word.empty()) progress.whole.finish = word;
    } else if (first || !text.empty() || !parsed.calls.empty() || !word.empty() ||
               (request_.top_logprobs >= 0 && !tokens.empty())) {
      send(format_->piece(
          {.index = index, .text = text, .calls = parsed.calls, .tokens = tokens, .finish = word, .first = first}));
    }
  }

  std::string echo_text(size_t prompt) const {
    formats::StreamDecoder decoder(*service_.model.tokenizer, formats::SpecialText::shown);
    return decoder.push(request_.prompts[prompt]) + decoder.flush();
  }
  std::vector<ScoredToken> echo_scores(size_t prompt) {
    std::vector<ScoredToken> scores(1);
    scores[0].id = request_.prompts[prompt][0];
    scores[0].logprob = std::numeric_limits<float>::quiet_NaN();  // nothing stands before it
    const std::vector<ScoredToken>& others = prompt_scores_[prompt];
    scores.insert(scores.end(), others.begin(), others.end());
    return scores;
  }

  // False when the client has gone.
  bool wait() {
    Exchange& exchange = *call_.exchange;
    if (request_.stream && Clock::now() - last_sent_ > kSilence) {
      begin();
      exchange.write(": waiting\n\n");
      last_sent_ = Clock::now();
    }
    return !exchange.closed();
  }

  void begin() {
    if (call_.exchange->begun()) return;
    HeaderList headers = call_.headers;
    headers.emplace_back("Cache-Control", "no-cache");
    headers.emplace_back("X-Accel-Buffering", "no");
    call_.record.status = 200;
    call_.exchange->begin_stream(200, "text/event-stream; charset=utf-8", headers);
  }

  void send(const std::string& json) {
    begin();
    if (!call_.exchange->write(cat("data: ", json, "\n\n"))) throw ClientGone();
    last_sent_ = Clock::now();
  }

  void finish(const runtime::Usage& usage) {
    RequestRecord& record = call_.record;
    record.prompt_tokens = usage.prompt_tokens;
    record.cached_tokens = usage.cached_tokens;
    record.generated_tokens = usage.generated_tokens;
    record.queue_seconds = usage.queue_seconds;
    service_.metrics.usage(usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens);
    if (request_.stream) {
      if (request_.include_usage) send(format_->usage_piece(usage));
      begin();
      call_.exchange->write("data: [DONE]\n\n");
      call_.exchange->end_stream();
    } else {
      std::vector<Choice> whole;
      for (Progress& p : choices_) whole.push_back(std::move(p.whole));
      call_.respond_json(format_->whole(whole, usage));
    }
  }

  Service& service_;
  Call& call_;
  const GenerationRequest request_;
  std::unique_ptr<ReplyFormat> format_;
  std::vector<Progress> choices_;
  std::map<size_t, std::vector<ScoredToken>> prompt_scores_;
  Clock::time_point last_sent_ = Clock::now();
};

}  // namespace

void answer_chat(Service& service, Call& call) {
  GenerationRequest request = resolve(parse_chat(call.request().body), service.model, service.constraints);
  call.drop_body();
  Reply(service, call, std::move(request)).run();
}

void answer_completion(Service& service, Call& call) {
  GenerationRequest request = resolve(parse_completion(call.request().body), service.model, service.constraints);
  call.drop_body();
  Reply(service, call, std::move(request)).run();
}

}  // namespace linnet::server
