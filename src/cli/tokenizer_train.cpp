#include "cli/tokenizer_train.h"

#include <optional>

#include "cli/formatted.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "core/errors.h"
#include "core/text.h"
#include "formats/tokenizer.h"
#include "train/tokenizer_train.h"

namespace linnet::cli {

int run_tokenizer_train(const TokenizerTrainArgs& args) {
  using train::TokenizerTrainPhase;
  if (args.pattern != "kimi")
    throw InvalidArgument(cat("--pattern: expected kimi, the only one that a loader of these files applies, got ",
                              printable(args.pattern, 60)));
  constexpr int64_t kMaxMiB = int64_t{1} << 30;
  if (args.memory_mib < 1 || args.memory_mib > kMaxMiB)
    throw InvalidArgument(cat("--memory: expected 1 to ", kMaxMiB, " MiB, got ", args.memory_mib));
  const train::DataConfig config = data_config_of(args.inputs);
  train::refuse_existing_tokenizer(args.out);

  ProgressLine counting("counting pieces", "bytes");
  std::optional<ProgressLine> merging;
  const train::TokenizerTrainResult result =
      train::train_tokenizer(config,
                             {.vocab_size = args.vocab_size,
                              .min_count = args.min_count,
                              .memory_bytes = static_cast<size_t>(args.memory_mib) << 20},
                             [&](TokenizerTrainPhase phase, int64_t done, int64_t total) {
                               if (phase == TokenizerTrainPhase::count) return counting.update(done, total);
                               if (!merging) counting.erase(), merging.emplace("learning", "tokens");
                               merging->update(done, total);
                             });
  counting.erase();
  merging.reset();
  train::write_tokenizer(args.out, result.tokens);

  const auto n_ranks = static_cast<int64_t>(result.tokens.size());
  note(cat(args.out.string(), ": ", count(n_ranks), " tokens and ", train::kSpecialRows, " special tokens: vocab_size ",
           n_ranks + train::kSpecialRows, ", from ", count(result.n_documents), " documents, ", size(result.n_bytes),
           ", ", count(result.n_pieces), " different pieces"));
  if (n_ranks + train::kSpecialRows < args.vocab_size)
    note(cat("fewer than the ", args.vocab_size, " asked for: nothing else occurs ", args.min_count, " times"));
  if (result.n_prunings > 0)
    note(cat("--memory was too little for all pieces: ", result.n_prunings, " times those seen at most ",
             result.forgotten_below, " times were forgotten"));
  return 0;
}

}  // namespace linnet::cli
