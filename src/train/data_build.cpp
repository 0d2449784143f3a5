#include "train/data_build.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdio>
#include <exception>
#include <optional>

#include "core/errors.h"
#include "core/text.h"
#include "formats/atomic_file.h"
#include "train/documents.h"
#include "train/tokenizer_files.h"
#include "train/tokenizer_train.h"

namespace linnet::train {
namespace {

namespace fs = std::filesystem;
using formats::TokenId;

constexpr size_t kBatchBytes = size_t{8} << 20;  // documents that are encoded side by side

void make_folder(const fs::path& dir) {
  std::error_code error;
  if (fs::exists(dir, error) && !fs::is_directory(dir, error))
    throw InvalidArgument(cat(dir.string(), ": expected a new or empty folder, got a file"));
  if (fs::is_directory(dir, error) && !fs::is_empty(dir, error))
    throw InvalidArgument(cat(dir.string(), ": expected a new or empty folder, got one with files in it"));
  fs::create_directories(dir, error);
  if (error) throw IoError(cat(dir.string(), ": cannot create the folder: ", error.message()));
}

// What a model of this tokenizer has embedding rows for.
int32_t vocab_size_of(const formats::Tokenizer& tokenizer) { return tokenizer.ranks().size() + kSpecialRows; }

std::optional<TokenId> boundary_token(const formats::Tokenizer& tokenizer, const std::string& name, const char* what) {
  if (name.empty()) return std::nullopt;
  const std::optional<TokenId> id = tokenizer.special_id(name);
  if (!id || *id >= vocab_size_of(tokenizer))
    throw InvalidArgument(cat(what, ": expected the name of a special token, got ", printable(name, 60)));
  return id;
}

// The shards of one source and split as they are written.
class SplitWriter {
 public:
  SplitWriter(const fs::path& dir, std::string stem, const TokenIds& ids, int64_t max_tokens)
      : dir_(dir), stem_(std::move(stem)), ids_(ids), max_tokens_(max_tokens) {}

  void add(std::span<const int32_t> tokens, size_t n_bytes) {
    if (!writer_) open();
    writer_->add(tokens);
    ++split_.documents;
    split_.tokens += std::ssize(tokens);
    split_.bytes += static_cast<int64_t>(n_bytes);
    if (writer_->n_tokens() >= max_tokens_) close();
  }

  ManifestSplit finish() {
    if (writer_) close();
    return std::move(split_);
  }

 private:
  void open() {
    char number[16];
    std::snprintf(number, sizeof number, "-%05zu.bin", split_.shards.size());
    split_.shards.push_back({stem_ + number});
    writer_.emplace(dir_ / split_.shards.back().file, ids_);
  }
  void close() {
    split_.shards.back().checksum = writer_->commit();
    writer_.reset();
  }

  const fs::path& dir_;
  std::string stem_;
  TokenIds ids_;
  int64_t max_tokens_;
  ManifestSplit split_;
  std::optional<TokenShardWriter> writer_;
};

class SourceBuilder {
 public:
  SourceBuilder(const fs::path& dir, const SourceConfig& source, const DataConfig& config,
                const formats::Tokenizer& tokenizer, ThreadPool& pool, const DataBuildOptions& options)
      : tokenizer_(tokenizer),
        pool_(pool),
        held_out_(config.held_out),
        begin_(boundary_token(tokenizer, config.begin_token, "begin_token")),
        end_(boundary_token(tokenizer, config.end_token, "end_token")),
        ids_{tokenizer.hash(), vocab_size_of(tokenizer)},
        writers_{{dir, cat(source.name, "-", name_of(Split::train)), ids_, options.max_shard_tokens},
                 {dir, cat(source.name, "-", name_of(Split::held_out)), ids_, options.max_shard_tokens}} {}

  void add(std::string_view text) {
    if (!texts_.empty() && n_bytes_ + text.size() > kBatchBytes) write_batch();
    texts_.emplace_back(text);
    n_bytes_ += text.size();
  }

  void finish(ManifestSource& out) {
    write_batch();
    out.hash = hash_;
    for (size_t split = 0; split < kSplits; ++split) out.splits[split] = writers_[split].finish();
  }

 private:
  void write_batch() {
    const size_t n = texts_.size();
    tokens_.resize(std::max(n, tokens_.size()));
    errors_.assign(n, nullptr);
    pool_.parallel_for(static_cast<int64_t>(n), 1, [&](int64_t begin, int64_t end, int) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) encode(i);
    });
    for (size_t i = 0; i < n; ++i) {
      if (errors_[i]) std::rethrow_exception(errors_[i]);
      const std::string& text = texts_[i];
      const double place = static_cast<double>(XXH64(text.data(), text.size(), 0)) * 0x1p-64;
      writers_[place < held_out_ ? 1 : 0].add(tokens_[i], text.size());
      hash_ = XXH64(text.data(), text.size(), hash_);
    }
    texts_.clear();
    n_bytes_ = 0;
  }

  void encode(size_t i) noexcept {
    try {
      tokens_[i] = tokenizer_.encode(texts_[i]);
      if (begin_) tokens_[i].insert(tokens_[i].begin(), *begin_);
      if (end_) tokens_[i].push_back(*end_);
    } catch (...) { errors_[i] = std::current_exception(); }
  }

  const formats::Tokenizer& tokenizer_;
  ThreadPool& pool_;
  double held_out_;
  std::optional<TokenId> begin_, end_;
  TokenIds ids_;
  SplitWriter writers_[kSplits];
  std::vector<std::string> texts_;
  std::vector<std::vector<TokenId>> tokens_;
  std::vector<std::exception_ptr> errors_;
  size_t n_bytes_ = 0;
  uint64_t hash_ = 0;
};

}  // namespace

ShardManifest build_data(const fs::path& dir, const DataConfig& config, const formats::Tokenizer& tokenizer,
                         ThreadPool& pool, const DataBuildOptions& options,
                         FunctionRef<void(int64_t, int64_t)> progress) {
  ShardManifest manifest{.ids = {tokenizer.hash(), vocab_size_of(tokenizer)},
                         .held_out = config.held_out,
                         .begin_token = config.begin_token,
                         .end_token = config.end_token};
  boundary_token(tokenizer, config.begin_token, "begin_token");
  boundary_token(tokenizer, config.end_token, "end_token");
  std::vector<SourceFiles> files;
  int64_t total = 0, done = 0;
  for (const SourceConfig& source : config.sources) {
    files.push_back(files_of(source));
    total += files.back().bytes;
  }
  make_folder(dir);
  for (size_t i = 0; i < files.size(); ++i) {
    ManifestSource source{.config = config.sources[i]};
    SourceBuilder builder(dir, source.config, config, tokenizer, pool, options);
    source.counts = for_each_document(
        source.config, files[i], [&](std::string_view text) { builder.add(text); },
        [&](int64_t bytes) { progress(done + bytes, total); });
    builder.finish(source);
    done += files[i].bytes;
    manifest.sources.push_back(std::move(source));
  }
  if (!options.tokenizer_folder.empty()) {
    make_folder(dir / kTokenizerFolder);
    copy_tokenizer_files(options.tokenizer_folder, dir / kTokenizerFolder);
  }
  formats::AtomicFile file(dir / kManifestFile);
  file.append(manifest_json(manifest));
  file.commit();
  return manifest;
}

}  // namespace linnet::train
