#include "cli/perplexity.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numbers>

#include "cli/ids_file.h"
#include "cli/input.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "core/errors.h"
#include "core/text.h"
#include "runtime/score.h"

namespace linnet::cli {
namespace {

constexpr int64_t kDefaultWindow = 4096;

struct Documents {
  std::vector<std::vector<int32_t>> tokens;
  std::optional<formats::Tokenizer> tokenizer;  // absent: ids came as they are, and bytes are not known
};

Documents read_documents(const PerplexityArgs& args, int64_t vocab_size) {
  if (args.files.empty() == args.ids.empty())
    throw InvalidArgument("perplexity: expected text files or --ids, one of the two");
  Documents documents;
  if (!args.ids.empty()) {
    const IdsFile ids = read_ids_file(args.ids, vocab_size);
    for (int64_t b = 0; b < ids.n_rows; ++b) documents.tokens.emplace_back(ids.row(b).begin(), ids.row(b).end());
    return documents;
  }
  documents.tokenizer = formats::Tokenizer::load(args.engine.model);
  for (const std::filesystem::path& file : args.files) {
    std::vector<int32_t> ids = documents.tokenizer->encode(read_text({.file = file}, "perplexity"));
    if (args.bos) {
      if (!documents.tokenizer->bos_id()) throw InvalidArgument("--bos: the tokenizer has no such token");
      ids.insert(ids.begin(), *documents.tokenizer->bos_id());
    }
    if (ids.size() < 2)
      throw InvalidArgument(cat(file.string(), ": expected at least 2 tokens to score, got ", ids.size()));
    documents.tokens.push_back(std::move(ids));
  }
  return documents;
}

struct Result {
  runtime::Score score;
  int64_t bytes = 0;  // of the scored tokens; 0: not known
  double bits_per_byte() const { return score.all.nll / std::numbers::ln2 / static_cast<double>(bytes); }
};

std::string table(const Result& r) {
  char text[200];
  std::snprintf(text, sizeof text, "tokens          %s\nloss            %.4f nats a token\nperplexity      %.4f\n",
                count_text(static_cast<uint64_t>(r.score.all.tokens)).c_str(), r.score.all.mean(),
                std::exp(r.score.all.mean()));
  std::string out = text;
  if (r.bytes > 0) {
    std::snprintf(text, sizeof text, "bits per byte   %.4f\n", r.bits_per_byte());
    out += text;
  }
  out += "\ntokens before         tokens      loss   perplexity\n";
  for (int b = 0; b < runtime::Score::kBuckets; ++b) {
    const runtime::Score::Sum& sum = r.score.by_position[static_cast<size_t>(b)];
    if (sum.tokens == 0) continue;
    const std::string range = cat(runtime::Score::bucket_begin(b), " to ", runtime::Score::bucket_begin(b + 1) - 1);
    std::snprintf(text, sizeof text, "%-16s %11s %9.4f %12.4f\n", range.c_str(),
                  count_text(static_cast<uint64_t>(sum.tokens)).c_str(), sum.mean(), std::exp(sum.mean()));
    out += text;
  }
  return out;
}

std::string json(const Result& r, const runtime::ScoreOptions& options) {
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
  return out.dump(2) + "\n";
}

}  // namespace

int run_perplexity(const PerplexityArgs& args) {
  const auto engine = open_engine(args.engine);
  const Documents documents = read_documents(args, engine->config().vocab_size);
  const int64_t window = args.engine.context == 0 ? std::min(kDefaultWindow, engine->context()) : engine->context();
  runtime::ScoreOptions options{.window = window, .stride = args.stride};
  if (options.stride == 0) options.stride = options.window;

  Result result;
  ProgressLine progress("perplexity", "tokens");
  for (size_t d = 0; d < documents.tokens.size(); ++d) {
    const std::vector<int32_t>& tokens = documents.tokens[d];
    const auto each = [&](int64_t index, double) {
      if (documents.tokenizer)
        result.bytes += static_cast<int64_t>(documents.tokenizer->bytes_of(tokens[static_cast<size_t>(index)]).size());
    };
    result.score.add(runtime::score_document(*engine, tokens, options, each, [&](int64_t done, int64_t total) {
      progress.update(done, total);
      return true;
    }));
  }
  progress.erase();
  if (!std::isfinite(result.score.all.nll)) {
    blame_weights(*engine);
    throw InternalError(cat("perplexity: expected a finite loss, got ", result.score.all.nll));
  }
  print(args.json ? json(result, options) : table(result));
  return 0;
}

}  // namespace linnet::cli
