#include "cli/bench_serve_prompts.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/posix_file.h"

namespace linnet::cli {
namespace {

using nlohmann::json;

constexpr int64_t kMaxTokens = int64_t{1} << 24;
constexpr const char* kWords[] = {"the",   "bird",  "sat",   "upon",  "a",     "branch", "and",   "sang",
                                  "of",    "rain",  "that",  "fell",  "on",    "old",    "stone", "walls",
                                  "while", "wind",  "from",  "north", "moved", "long",   "grass", "under",
                                  "grey",  "light", "where", "no",    "one",   "had",    "come",  "before"};

std::string words(const Rng& rng, int64_t n) {
  std::string out;
  for (int64_t i = 0; i < n; ++i)
    out += cat(i > 0 ? " " : "", kWords[rng.bits(static_cast<uint64_t>(i)) % std::size(kWords)]);
  return out;
}

std::string message(const char* role, const std::string& content) {
  return json{{"role", role}, {"content", content}}.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

Range parse_range(const std::string& text, const char* option) {
  Range range{};
  const auto parse = [&](std::string_view part) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || end != part.data() + part.size() || value < 1 || value > kMaxTokens)
      throw InvalidArgument(cat(option, ": expected N or LOW:HIGH, 1 or more, got ", printable(text, 40)));
    return value;
  };
  const size_t colon = text.find(':');
  range.low = parse(std::string_view(text).substr(0, colon));
  range.high = colon == std::string::npos ? range.low : parse(std::string_view(text).substr(colon + 1));
  if (range.high < range.low) throw InvalidArgument(cat(option, ": expected LOW:HIGH, got ", printable(text, 40)));
  return range;
}

Prompts::Prompts(const BenchServeArgs& args, const ServerAddress& server, std::string model)
    : args_(args),
      server_(server),
      model_(std::move(model)),
      prompt_(parse_range(args.prompt_tokens, "--prompt-tokens")),
      output_(parse_range(args.output_tokens, "--output-tokens")),
      arrivals_(args.seed, 1) {
  if (!args.prompts.empty()) read_file();
}

// Lines {"prompt": "..."} or {"messages": [...]}.
void Prompts::read_file() {
  std::ifstream in(args_.prompts);
  if (!in) formats::throw_io_error(args_.prompts, "cannot open", errno);
  int64_t number = 0;
  for (std::string text; std::getline(in, text);) {
    const auto bad = [&](const char* what) {
      return FormatError(cat(args_.prompts.string(), ": line ", number, ": ", what));
    };
    ++number;
    const json line = json::parse(text, nullptr, false);
    if (!line.is_object()) throw bad("expected a JSON object");
    if (line.contains("messages") && line["messages"].is_array() && !line["messages"].empty()) {
      const std::string list = line["messages"].dump();
      file_.push_back({.text = {}, .messages = list.substr(1, list.size() - 2)});
    } else if (line.contains("prompt") && line["prompt"].is_string()) {
      file_.push_back({.text = line["prompt"].get<std::string>(), .messages = {}});
    } else {
      throw bad("expected \"prompt\": a text, or \"messages\": a list");
    }
  }
  if (file_.empty()) throw FormatError(cat(args_.prompts.string(), ": expected prompts, got none"));
}

std::optional<Exchange> Prompts::next_conversation() {
  const int64_t i = static_cast<int64_t>(histories_.size());
  if (i == args_.requests) return std::nullopt;
  histories_.emplace_back();
  Exchange next = exchange(i, 0);
  if (args_.rate > 0) {  // the gaps of a Poisson process are exponential
    next.due = arrival_;
    arrival_ -= std::log1p(-arrivals_.uniform()) / args_.rate;
  }
  return next;
}

std::optional<Exchange> Prompts::next_turn(const Sample& before) {
  std::string& history = histories_[static_cast<size_t>(before.conversation)];
  if (before.turn + 1 >= args_.turns) {
    history = {};
    return std::nullopt;
  }
  history += "," + message("assistant", before.text);
  Exchange next = exchange(before.conversation, before.turn + 1);
  next.due = args_.pause;
  return next;
}

Exchange Prompts::exchange(int64_t conversation, int64_t turn) {
  const FilePrompt* given = file_.empty() ? nullptr : &file_[static_cast<size_t>(conversation) % file_.size()];
  std::string& history = histories_[static_cast<size_t>(conversation)];
  if (turn == 0 && given && !given->messages.empty()) history = given->messages;
  else if (args_.chat || args_.turns > 1)
    history += cat(history.empty() ? "" : ",",
                   message("user", turn == 0 && given ? given->text : random_words(conversation, turn)));
  const bool chat = !history.empty();
  const char* path = chat ? "/v1/chat/completions" : "/v1/completions";
  return {.conversation = conversation,
          .turn = turn,
          .request = http_request(server_, path, args_.api_key, body(conversation, turn))};
}

std::string Prompts::body(int64_t conversation, int64_t turn) const {
  const std::string& history = histories_[static_cast<size_t>(conversation)];
  std::string out =
      cat("{\"model\":", json(model_).dump(), ",\"stream\":true,\"stream_options\":{\"include_usage\":true}",
          ",\"max_tokens\":", draw(output_, conversation, turn, 2),
          ",\"seed\":", (args_.seed + static_cast<uint64_t>(conversation)) % (uint64_t{1} << 31));
  if (!args_.stop_at_end) out += ",\"ignore_eos\":true";
  if (args_.temperature) out += cat(",\"temperature\":", *args_.temperature);
  if (!history.empty()) return cat(out, ",\"messages\":[", history, "]}");
  const std::string prompt = file_.empty() ? random_ids(conversation)
                                           : json(file_[static_cast<size_t>(conversation) % file_.size()].text).dump();
  return cat(out, ",\"prompt\":", prompt, "}");
}

int64_t Prompts::draw(const Range& range, int64_t conversation, int64_t turn, uint64_t what) const {
  const Rng rng(args_.seed, mix64(static_cast<uint64_t>(conversation) * 1024 + static_cast<uint64_t>(turn)) + what);
  return range.low + static_cast<int64_t>(rng.bits(0) % static_cast<uint64_t>(range.high - range.low + 1));
}

// The first ids are those of every conversation, the rest its own.
std::string Prompts::random_ids(int64_t conversation) const {
  const Rng shared(args_.seed, 3), own(args_.seed, mix64(static_cast<uint64_t>(conversation)) + 4);
  const int64_t n = draw(prompt_, conversation, 0, 5);
  std::string out = "[";
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t bits = (i < args_.shared_tokens ? shared : own).bits(static_cast<uint64_t>(i));
    out += cat(i > 0 ? "," : "", bits % static_cast<uint64_t>(args_.vocabulary));
  }
  return out + "]";
}

std::string Prompts::random_words(int64_t conversation, int64_t turn) const {
  const int64_t n = draw(prompt_, conversation, turn, 5), shared = turn == 0 ? std::min(args_.shared_tokens, n) : 0;
  const Rng own(args_.seed, mix64(static_cast<uint64_t>(conversation) * 1024 + static_cast<uint64_t>(turn)) + 6);
  return words(Rng(args_.seed, 7), shared) + (shared > 0 && shared < n ? " " : "") + words(own, n - shared);
}

HealthChecks::HealthChecks(const BenchServeArgs& args, const ServerAddress& server)
    : request_(http_request(server, "/health", args.api_key)), left_(args.concurrency), seconds_(args.seconds) {}

std::optional<Exchange> HealthChecks::next_conversation() {
  if (left_ == 0) return std::nullopt;
  return Exchange{.conversation = --left_, .request = request_, .stream = false};
}

std::optional<Exchange> HealthChecks::next_turn(const Sample& before) {
  if (before.end >= seconds_) return std::nullopt;
  return Exchange{.conversation = before.conversation, .turn = before.turn + 1, .request = request_, .stream = false};
}

}  // namespace linnet::cli
