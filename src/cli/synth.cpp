#include "cli/synth.h"

#include "cli/formatted.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "core/errors.h"
#include "core/text.h"
#include "model/synth.h"

namespace linnet::cli {
namespace {

DType parse_dtype(const std::string& text) {
  for (DType t : {DType::bf16, DType::f16, DType::f32})
    if (text == name_of(t)) return t;
  throw InvalidArgument(cat("--dtype: expected bf16, f16 or f32, got ", printable(text, 60)));
}

void truncate(model::ModelConfig& config, int64_t layers) {
  if (layers < 0 || layers > config.n_layers())
    throw InvalidArgument(cat("--layers: expected 1 to ", config.n_layers(), ", got ", layers));
  if (layers == 0) return;
  config.mixers.resize(static_cast<size_t>(layers));
  config.ffns.resize(static_cast<size_t>(layers));
}

}  // namespace

int run_synth(const SynthArgs& args) {
  model::ModelConfig config = model::read_config(args.config);
  truncate(config, args.layers);
  if (!args.dtype.empty()) config.dtype = parse_dtype(args.dtype);
  ThreadPool pool(args.threads);
  ProgressLine progress(args.out.string(), "bytes");
  const model::SynthResult result =
      model::write_synthetic_checkpoint(args.out, config, {.seed = args.seed, .max_shard_bytes = args.max_shard_bytes},
                                        pool, [&](int64_t done, int64_t total) { progress.update(done, total); });
  progress.erase();
  note(cat(args.out.string(), ": ", count(result.n_parameters), " parameters in ", result.n_tensors, " tensors, ",
           size(result.n_bytes),
           result.has_tokenizer ? "" : "; no tokenizer: the vocabulary is smaller than the 256 bytes"));
  return 0;
}

}  // namespace linnet::cli
