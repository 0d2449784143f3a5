#include "cli/data_build.h"

#include "cli/formatted.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/tokenizer.h"
#include "train/data_build.h"

namespace linnet::cli {
namespace {

std::string row(const std::string& name, const train::ManifestSplit (&splits)[train::kSplits]) {
  const int64_t tokens = splits[0].tokens + splits[1].tokens, bytes = splits[0].bytes + splits[1].bytes;
  return formatted("%-20s %12s %14s %14s %13.3f %12s %14s\n", name.c_str(),
                   count(splits[0].documents + splits[1].documents).c_str(), count(bytes).c_str(),
                   count(tokens).c_str(), tokens > 0 ? static_cast<double>(bytes) / static_cast<double>(tokens) : 0.0,
                   count(splits[1].documents).c_str(), count(splits[1].tokens).c_str());
}

std::string table(const train::ShardManifest& manifest) {
  std::string out =
      "source                  documents          bytes         tokens   bytes/token     held out         tokens\n";
  train::ManifestSplit all[train::kSplits];
  for (const train::ManifestSource& source : manifest.sources) {
    out += row(source.config.name, source.splits);
    for (size_t split = 0; split < train::kSplits; ++split) {
      all[split].documents += source.splits[split].documents;
      all[split].tokens += source.splits[split].tokens;
      all[split].bytes += source.splits[split].bytes;
    }
  }
  return manifest.sources.size() > 1 ? out + row("all", all) : out;
}

void note_skipped(const train::ShardManifest& manifest) {
  for (const train::ManifestSource& source : manifest.sources) {
    const train::DocumentCounts& c = source.counts;
    if (c.empty + c.binary_files + c.large_files == 0) continue;
    note(cat(source.config.name, ": skipped ", c.empty, " empty, ", c.binary_files, " binary, ", c.large_files,
             " too large"));
  }
}

}  // namespace

int run_data_build(const DataBuildArgs& args) {
  train::DataConfig config = data_config_of(args.inputs);
  if (args.held_out) config.held_out = *args.held_out;
  if (!(config.held_out >= 0 && config.held_out <= 1))
    throw InvalidArgument(cat("--held-out: expected a share in [0, 1], got ", config.held_out));
  if (args.begin_token) config.begin_token = *args.begin_token == "none" ? "" : *args.begin_token;
  if (args.end_token) config.end_token = *args.end_token == "none" ? "" : *args.end_token;
  if (args.max_shard_tokens < 1)
    throw InvalidArgument(cat("--max-shard-tokens: expected at least 1, got ", args.max_shard_tokens));
  const auto tokenizer = formats::Tokenizer::load(args.tokenizer);
  ThreadPool pool(args.threads);
  ProgressLine progress(args.out.string(), "bytes");
  const train::ShardManifest manifest =
      train::build_data(args.out, config, tokenizer, pool,
                        {.max_shard_tokens = args.max_shard_tokens, .tokenizer_folder = args.tokenizer},
                        [&](int64_t done, int64_t total) { progress.update(done, total); });
  progress.erase();
  note_skipped(manifest);
  int64_t n_held_out = 0;
  for (const train::ManifestSource& source : manifest.sources) n_held_out += source.splits[1].documents;
  if (config.held_out > 0 && n_held_out == 0)
    note(cat("no document fell into the held-out share of ", config.held_out));
  print(table(manifest));
  return 0;
}

}  // namespace linnet::cli
