#include "cli/engine_args.h"

#include <cstdlib>

#include "cli/progress.h"
#include "core/cpu_features.h"
#include "core/errors.h"
#include "core/text.h"

namespace linnet::cli {
namespace {

constexpr float kRemoteLatentEps = 1e-6f;  // the class default of the published remote code's norm

void add_parity(const std::string& word, model::ParityOptions& parity) {
  const std::string kEps = "latent-eps=";
  if (word == "biased-router") parity.biased_router_weights = true;
  else if (word == "double-round") parity.round_norm_before_weight = true;
  else if (word == "bf16-decay") parity.round_decay_to_bf16 = true;
  else if (word == "remote") parity = {true, kRemoteLatentEps, true, true};
  else if (word.starts_with(kEps)) {
    const std::string number = word.substr(kEps.size());
    char* end = nullptr;
    parity.latent_norm_eps = std::strtof(number.c_str(), &end);
    if (number.empty() || *end != '\0' || !(parity.latent_norm_eps > 0 && parity.latent_norm_eps < 1))
      throw InvalidArgument(cat("--parity: latent-eps: expected a number in (0, 1), got ", printable(number, 40)));
  } else {
    throw InvalidArgument(
        cat("--parity: expected biased-router, latent-eps=X, double-round, bf16-decay or remote, got ",
            printable(word, 60)));
  }
}

DType parse_latent(const std::string& text) {
  if (text == "f32") return DType::f32;
  if (text == "bf16") return DType::bf16;
  throw InvalidArgument(cat("--latent: expected f32 or bf16, got ", printable(text, 60)));
}

}  // namespace

model::ParityOptions parse_parity(const std::string& text) {
  model::ParityOptions parity;
  for (size_t at = 0; at < text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    add_parity(text.substr(at, comma - at), parity);
    at = comma + 1;
  }
  return parity;
}

std::unique_ptr<runtime::Engine> open_engine(const EngineArgs& args) {
  runtime::EngineOptions options{
      .threads = args.threads, .context = args.context, .tokens_per_pass = args.tokens_per_pass};
  options.load.parity = parse_parity(args.parity);
  if (!args.latent.empty()) options.load.cache_dtype = parse_latent(args.latent);
  active_isa();  // LINNET_ISA is wrong at once or not at all
  ProgressLine progress(cat("loading ", args.model.string()), "bytes");
  progress.show(0, 0);
  options.load.check_progress = [&](int64_t done, int64_t total) { progress.update(done, total); };
  return std::make_unique<runtime::Engine>(args.model, options);
}

void blame_weights(runtime::Engine& engine) {
  ProgressLine progress("checking weights", "bytes");
  const std::string bad = model::find_bad_weight(engine.loaded(), engine.pool(),
                                                 [&](int64_t done, int64_t total) { progress.update(done, total); });
  if (!bad.empty()) throw FormatError(bad);
}

}  // namespace linnet::cli
