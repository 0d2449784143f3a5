#include "train/tokenizer_train.h"

#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/text.h"
#include "formats/atomic_file.h"
#include "formats/tokenizer.h"
#include "train/bpe_train.h"
#include "train/documents.h"

namespace linnet::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRanksFile = "tiktoken.model";
constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr int64_t kMaxVocabSize = int64_t{1} << 24;

std::string config_json(int32_t n_ranks) {
  using Json = nlohmann::ordered_json;
  const formats::SpecialTokens specials = formats::SpecialTokens::kimi(n_ranks);
  Json added = Json::object();
  for (formats::TokenId id = specials.first(); id < specials.first() + kSpecialRows; ++id) {
    if (specials.name(id).starts_with("<|reserved_token_")) continue;
    added[std::to_string(id)] = {{"content", specials.name(id)}, {"special", true}};
  }
  const Json json = {{"tokenizer_class", "TikTokenTokenizer"},
                     {"bos_token", "[BOS]"},
                     {"eos_token", "[EOS]"},
                     {"pad_token", "[PAD]"},
                     {"unk_token", "[UNK]"},
                     {"added_tokens_decoder", added}};
  return json.dump(2) + "\n";
}

}  // namespace

TokenizerTrainResult train_tokenizer(const DataConfig& config, const TokenizerTrainOptions& options,
                                     FunctionRef<void(TokenizerTrainPhase, int64_t, int64_t)> progress) {
  if (options.vocab_size < 256 + kSpecialRows || options.vocab_size > kMaxVocabSize)
    throw InvalidArgument(cat("vocabulary: expected ", 256 + kSpecialRows, " to ", kMaxVocabSize,
                              " tokens (256 bytes, ", kSpecialRows, " special tokens, and what is learnt), got ",
                              options.vocab_size));
  PieceCounts counts(options.memory_bytes);
  const formats::PreTokenizer pre_tokenizer;
  std::vector<SourceFiles> files;
  int64_t total = 0, done = 0;
  for (const SourceConfig& source : config.sources) {
    files.push_back(files_of(source));
    total += files.back().bytes;
  }
  TokenizerTrainResult result;
  for (size_t i = 0; i < files.size(); ++i) {
    const SourceConfig& source = config.sources[i];
    const DocumentCounts read = for_each_document(
        source, files[i], [&](std::string_view text) { counts.add_text(pre_tokenizer, text, source.weight); },
        [&](int64_t bytes) { progress(TokenizerTrainPhase::count, done + bytes, total); });
    result.n_documents += read.documents;
    result.n_bytes += read.bytes;
    done += files[i].bytes;
  }
  result.n_pieces = static_cast<int64_t>(counts.size());
  result.n_prunings = counts.n_prunings();
  result.forgotten_below = counts.forgotten_below();
  result.tokens =
      train_bpe(std::move(counts), {.n_tokens = options.vocab_size - kSpecialRows, .min_count = options.min_count},
                [&](int64_t tokens, int64_t wanted) { progress(TokenizerTrainPhase::merge, tokens, wanted); });
  return result;
}

void refuse_existing_tokenizer(const fs::path& dir) {
  if (fs::exists(dir) && !fs::is_directory(dir))
    throw InvalidArgument(cat(dir.string(), ": expected a folder, got a file"));
  for (const char* name : {kRanksFile, kConfigFile})
    if (fs::exists(dir / name))
      throw InvalidArgument(cat((dir / name).string(), ": exists already: delete it, or name another folder"));
}

void write_tokenizer(const fs::path& dir, const std::vector<std::string>& tokens) {
  refuse_existing_tokenizer(dir);
  std::error_code error;
  fs::create_directories(dir, error);
  if (error) throw IoError(cat(dir.string(), ": cannot create the folder: ", error.message()));
  formats::AtomicFile config(dir / kConfigFile);
  config.append(config_json(static_cast<int32_t>(tokens.size())));
  config.commit();
  formats::write_ranks_file(dir / kRanksFile, tokens);
}

}  // namespace linnet::train
