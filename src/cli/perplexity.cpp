#include "cli/perplexity.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "cli/formatted.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "core/errors.h"
#include "core/text.h"
#include "runtime/score.h"

namespace linnet::cli {
namespace {

constexpr int64_t kDefaultWindow = 4096;

struct Result {
  runtime::Score score;
  int64_t bytes = 0;  // of the scored tokens; 0: not known
  double bits_per_byte() const { return score.all.nll / std::numbers::ln2 / static_cast<double>(bytes); }
  void add(const Result& other) {
    score.add(other.score);
    bytes += other.bytes;
  }
};

// One of each source of the documents, and of all.
struct Results {
  Result all;
  std::vector<Result> by_group;
};

std::string table(const Results& results, const std::vector<std::string>& groups) {
  const Result& r = results.all;
  std::string out = formatted("tokens          %s\nloss            %.4f nats a token\nperplexity      %.4f\n",
                              count(r.score.all.tokens).c_str(), r.score.all.mean(), std::exp(r.score.all.mean()));
  if (r.bytes > 0) out += formatted("bits per byte   %.4f\n", r.bits_per_byte());
  out += "\ntokens before         tokens      loss   perplexity\n";
  for (int b = 0; b < runtime::Score::kBuckets; ++b) {
    const runtime::Score::Sum& sum = r.score.by_position[static_cast<size_t>(b)];
    if (sum.tokens == 0) continue;
    const std::string range = cat(runtime::Score::bucket_begin(b), " to ", runtime::Score::bucket_begin(b + 1) - 1);
    out += formatted("%-16s %11s %9.4f %12.4f\n", range.c_str(), count(sum.tokens).c_str(), sum.mean(),
                     std::exp(sum.mean()));
  }
  if (groups.size() < 2) return out;
  out += "\nsource                tokens      loss   bits per byte\n";
  for (size_t g = 0; g < groups.size(); ++g) {
    const Result& group = results.by_group[g];
    if (group.score.all.tokens == 0) continue;
    out += formatted("%-16.100s %11s %9.4f %15.4f\n", groups[g].c_str(), count(group.score.all.tokens).c_str(),
                     group.score.all.mean(), group.bits_per_byte());
  }
  return out;
}

std::string json(const Results& results, const std::vector<std::string>& groups, const runtime::ScoreOptions& options) {
  const Result& r = results.all;
  nlohmann::ordered_json out = {
      {"tokens", r.score.all.tokens}, {"loss", r.score.all.mean()}, {"perplexity", std::exp(r.score.all.mean())},
      {"bits_per_byte", nullptr},     {"window", options.window},   {"stride", options.stride}};
  if (r.bytes > 0) out["bits_per_byte"] = r.bits_per_byte();
  auto& buckets = out["by_tokens_before"] = nlohmann::ordered_json::array();
  for (int b = 0; b < runtime::Score::kBuckets; ++b) {
    const runtime::Score::Sum& sum = r.score.by_position[static_cast<size_t>(b)];
    if (sum.tokens == 0) continue;
    buckets.push_back({{"from", runtime::Score::bucket_begin(b)},
                       {"to", runtime::Score::bucket_begin(b + 1) - 1},
                       {"tokens", sum.tokens},
                       {"loss", sum.mean()}});
  }
  if (groups.size() == 1 && groups[0].empty()) return out.dump(2) + "\n";
  auto& sources = out["by_source"] = nlohmann::ordered_json::array();
  for (size_t g = 0; g < groups.size(); ++g) {
    const Result& group = results.by_group[g];
    if (group.score.all.tokens == 0) continue;
    sources.push_back({{"source", groups[g]},
                       {"tokens", group.score.all.tokens},
                       {"bytes", group.bytes},
                       {"loss", group.score.all.mean()},
                       {"bits_per_byte", group.bits_per_byte()}});
  }
  return out.dump(2) + "\n";
}

Results score(runtime::Engine& engine, const ScoredDocuments& documents, const runtime::ScoreOptions& options) {
  Results results;
  results.by_group.resize(documents.groups().size());
  ProgressLine progress("perplexity", "tokens");
  const int64_t n_tokens = documents.n_tokens();
  int64_t n_done = 0;
  for (int64_t d = 0; d < documents.size(); ++d) {
    const std::vector<int32_t> tokens = documents.tokens(d);
    if (tokens.size() < 2) continue;  // of shards: nothing stands before its only token
    Result result;
    const auto each = [&](int64_t index, double) {
      result.bytes += documents.bytes_of(tokens[static_cast<size_t>(index)]);
    };
    result.score = runtime::score_document(engine, tokens, options, each, [&](int64_t done, int64_t total) {
      progress.update(n_done + done * std::ssize(tokens) / total, n_tokens);
      return true;
    });
    n_done += std::ssize(tokens);
    results.all.add(result);
    results.by_group[documents.group(d)].add(result);
  }
  return results;
}

}  // namespace

int run_perplexity(const PerplexityArgs& args) {
  const auto engine = open_engine(args.engine);
  ScoredSource source = args.documents;
  source.model = args.engine.model;
  const ScoredDocuments documents(source, engine->config().vocab_size);
  const int64_t window = args.engine.context == 0 ? std::min(kDefaultWindow, engine->context()) : engine->context();
  runtime::ScoreOptions options{.window = window, .stride = args.stride};
  if (options.stride == 0) options.stride = options.window;

  const Results results = score(*engine, documents, options);
  const runtime::Score::Sum& all = results.all.score.all;
  if (all.tokens == 0) throw FormatError("perplexity: expected a document of at least 2 tokens, got none");
  if (!std::isfinite(all.nll)) {
    blame_weights(*engine);
    throw InternalError(cat("perplexity: expected a finite loss, got ", all.nll));
  }
  print(args.json ? json(results, documents.groups(), options) : table(results, documents.groups()));
  return 0;
}

}  // namespace linnet::cli
